"""Texts of the backbones that use CLIP's tokenizer."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dist_jax.errors import UserError
from dist_jax.text import tokenizer
from dist_jax.text.text_features import check_tokens
from dist_jax.weights.backbone_model import BackboneModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ClipTextModel(BackboneModel):
    """A backbone with a text tower like CLIP's: the end token of a text gives its embedding."""

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """See `BackboneModel.tokenize`."""
        assert self.text is not None
        tokens = tokenizer.encode(self._loaded_tokenizer, texts, self.text.context_length)
        end_tokens = tokens.max(axis=1) if self.text.end_token is None else np.full(len(tokens), self.text.end_token)
        if (end_tokens != self._loaded_tokenizer.eos_token_id).any():
            actual = f"token {self._loaded_tokenizer.eos_token_id}"
            expected = "the highest token id" if self.text.end_token is None else f"token {self.text.end_token}"
            raise UserError(
                f"{self.tokenizer_mismatch}: its texts end with {actual}, the text tower expects {expected}"
            )
        return tokens

    def check_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """See `BackboneModel.check_tokens`."""
        assert self.text is not None
        return check_tokens(tokens, self.text)

    @cached_property
    def _loaded_tokenizer(self) -> "PreTrainedTokenizerBase":
        return tokenizer.load(self.tokenizer_directory)
