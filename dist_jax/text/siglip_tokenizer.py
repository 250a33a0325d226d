"""SigLIP's tokenizers: texts -> token ids, as in the training of SigLIP and SigLIP 2."""

import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dist_jax.text import tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SiglipTokenizer:
    """The tokenizer of a SigLIP, from its tokenizer.json.

    Both models are trained on lower-case texts, padded to the context. The first SigLIP also removes punctuation.
    """

    def __init__(self, source: str) -> None:
        """Loads the tokenizer of a directory or a hub id. Raises the errors of `tokenizer.load`."""
        self._tokenizer: PreTrainedTokenizerBase = tokenizer.load_fast(source)
        config = tokenizer.read_config(source)
        self._removes_punctuation = config.get("tokenizer_class") == "SiglipTokenizer"

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._tokenizer)

    @property
    def start_token(self) -> str | None:
        """The token before each text, e.g. Gemma's <bos>. SigLIP's tokenizers have none."""
        first = self._tokenizer("")["input_ids"][:1]
        start = self._tokenizer.bos_token_id
        return self._tokenizer.bos_token if start is not None and first == [start] else None

    def encode(self, texts: Sequence[str], context: int) -> np.ndarray:
        """Token ids of K texts: tokens, end, padding. int32 [K, context]; see `tokenizer.encode`.

        Raises:
            UserError: `texts` is not a list of strings.
        """
        tokenizer.check_texts(texts)
        return tokenizer.encode(self._tokenizer, [self.canonical(text) for text in texts], context)

    def canonical(self, text: str) -> str:
        """The text as in the training."""
        text = text.lower()
        if not self._removes_punctuation:
            return text
        return re.sub(r"\s+", " ", text.translate(_PUNCTUATION)).strip()
