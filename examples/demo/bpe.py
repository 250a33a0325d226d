"""A small byte-level BPE in CLIP's format, learned from a list of texts.

CLIP's tokenizer lower-cases a text, splits it into words, writes a word's bytes as printable characters, marks the last
one with `</w>` and joins pairs in the order in which they were learned. Its files are vocab.json and merges.txt.
"""

import collections
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

START, END = "<|startoftext|>", "<|endoftext|>"
Word = tuple[str, ...]  # what a word is split into so far
_WORDS = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_")  # letters, one digit, or signs: as CLIP splits


def learn_merges(texts: Iterable[str], limit: int) -> list[tuple[str, str]]:
    """The first `limit` merges, most frequent pair first (ties: alphabetical); fewer if nothing is left to join."""
    words = collections.Counter(_characters(word) for text in texts for word in _WORDS.findall(text.lower()))
    merges = []
    while len(merges) < limit and (pairs := _count_pairs(words)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = collections.Counter({_join(word, best): count for word, count in words.items()})
    return merges


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Token -> number, as CLIP orders them: every byte, every byte at a word's end, the merges, start, end."""
    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(c + "</w>" for c in characters), *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}


def save_tokenizer(directory: Path, merges: list[tuple[str, str]], context: int) -> None:
    """Writes the files from which transformers' CLIPTokenizer loads; `context` is the longest text in tokens."""
    (directory / "vocab.json").write_text(json.dumps(vocabulary(merges), ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (directory / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context, "do_lower_case": True, **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _characters(word: str) -> Word:
    """A word's bytes as printable characters, the last one marked."""
    ((text, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
    return (*text[:-1], text[-1] + "</w>")


def _count_pairs(words: collections.Counter[Word]) -> collections.Counter[tuple[str, str]]:
    pairs = collections.Counter()
    for word, count in words.items():
        for pair in itertools.pairwise(word):
            pairs[pair] += count
    return pairs


def _join(word: Word, pair: tuple[str, str]) -> Word:
    """`word` with every occurrence of `pair` made one token."""
    joined, i = [], 0
    while i < len(word):
        found = word[i : i + 2] == pair
        joined.append("".join(pair) if found else word[i])
        i += 2 if found else 1
    return tuple(joined)
