"""Learns a small byte-level BPE tokenizer from a list of texts, and writes it in CLIP's or SigLIP's format.

CLIP's tokenizer lower-cases the text, splits it into words, maps the bytes of each word to printable characters,
appends `</w>` to the last one, and merges pairs in the order in which they were learned. Its files are vocab.json and
merges.txt. The demo's SigLIP has the same words and merges, but only an end token. Its file is tokenizer.json.
"""

import collections
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

CLIP_TOKENS = START, END = "<|startoftext|>", "<|endoftext|>"
SIGLIP_TOKENS = ("</s>",)  # end and padding
Word = tuple[str, ...]  # current tokens of a word
_WORDS = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_")  # letters, one digit, or symbols: same as CLIP
_SUFFIX = "</w>"  # ends a word


def learn_merges(texts: Iterable[str], max_merges: int) -> list[tuple[str, str]]:
    """At most `max_merges` merges, most frequent pair first (ties: alphabetical); fewer if no pairs remain."""
    words = collections.Counter(_characters(word) for text in texts for word in _WORDS.findall(text.lower()))
    merges = []
    while len(merges) < max_merges and (pairs := _count_pairs(words)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = collections.Counter({_merge(word, best): count for word, count in words.items()})
    return merges


def vocabulary(merges: list[tuple[str, str]], special: Sequence[str]) -> dict[str, int]:
    """Token -> id in CLIP's order: all bytes, all bytes at the end of a word, merges, special tokens."""
    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(c + _SUFFIX for c in characters), *map("".join, merges), *special]
    return {token: index for index, token in enumerate(tokens)}


def save_clip_tokenizer(directory: Path, merges: list[tuple[str, str]], context_length: int) -> int:
    """Writes the files of a transformers CLIPTokenizer.

    `context_length` is the maximum number of tokens per text. Returns the number of different tokens.
    """
    tokens = vocabulary(merges, CLIP_TOKENS)
    (directory / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (directory / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    _write_config(directory, "CLIPTokenizer", context_length, {"do_lower_case": True, **special})
    return len(tokens)


def save_siglip_tokenizer(directory: Path, merges: list[tuple[str, str]], context_length: int) -> int:
    """Writes the files of a transformers PreTrainedTokenizerFast. Arguments and result as in `save_clip_tokenizer`."""
    tokens, (end,) = vocabulary(merges, SIGLIP_TOKENS), SIGLIP_TOKENS
    tokenizer = Tokenizer(models.BPE(tokens, merges, end_of_word_suffix=_SUFFIX))
    tokenizer.add_special_tokens([end])
    tokenizer.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(_WORDS.pattern), behavior="removed", invert=True)
    characters = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, characters])
    tokenizer.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokens[end])])
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_config(directory, "PreTrainedTokenizerFast", context_length, {"eos_token": end, "pad_token": end})
    return len(tokens)


def _write_config(directory: Path, class_name: str, context_length: int, options: Mapping[str, object]) -> None:
    config = {"tokenizer_class": class_name, "model_max_length": context_length, **options}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _characters(word: str) -> Word:
    """Bytes of a word as printable characters, the last one with `</w>`."""
    ((text, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
    return (*text[:-1], text[-1] + _SUFFIX)


def _count_pairs(words: collections.Counter[Word]) -> collections.Counter[tuple[str, str]]:
    pairs = collections.Counter()
    for word, count in words.items():
        for pair in itertools.pairwise(word):
            pairs[pair] += count
    return pairs


def _merge(word: Word, pair: tuple[str, str]) -> Word:
    """`word` with every occurrence of `pair` merged into one token."""
    tokens, i = [], 0
    while i < len(word):
        is_pair = word[i : i + 2] == pair
        tokens.append("".join(pair) if is_pair else word[i])
        i += 2 if is_pair else 1
    return tuple(tokens)
