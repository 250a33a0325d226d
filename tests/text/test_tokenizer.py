"""Tests of the tokenizer, with a vocabulary of letters and three merges."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_jax.errors import UserError
from dist_jax.text import tokenizer

# Letters, letters at the end of a word, and three merges; <|startoftext|> and <|endoftext|> have the highest ids.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MERGES = ("d o", "do g</w>", "c at</w>")
TOKENS = [*LETTERS, *(x + "</w>" for x in LETTERS), "do", "dog</w>", "at</w>", "cat</w>", "<|startoftext|>"]
VOCAB = {token: number for number, token in enumerate([*TOKENS, "<|endoftext|>"])}
START, END = VOCAB["<|startoftext|>"], VOCAB["<|endoftext|>"]
DOG, A = VOCAB["dog</w>"], VOCAB["a</w>"]


def write_tokenizer(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(VOCAB))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return directory


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tokenizer.load(str(write_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def test_a_row_is_start_tokens_end_padding(tiny):
    rows = tokenizer.encode(tiny, ["a dog", "dog"], 6)
    assert rows.dtype == np.int32
    assert rows[0, :4].tolist() == [START, A, DOG, END]
    assert rows[1, :3].tolist() == [START, DOG, END]
    assert rows.shape == (2, 6)


def test_case_and_spaces_have_no_effect(tiny):
    rows = tokenizer.encode(tiny, ["a dog", "  A \n DOG "], 6)
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_long_text_keeps_its_end_token(tiny):
    assert tokenizer.encode(tiny, ["dog " * 9], 5).tolist() == [[START, DOG, DOG, DOG, END]]
    assert tokenizer.encode(tiny, ["dog"], 2).tolist() == [[START, END]]


def test_empty_lists_and_empty_texts_are_valid(tiny):
    assert tokenizer.encode(tiny, [], 7).shape == (0, 7)
    assert tokenizer.encode(tiny, [""], 3)[0, :2].tolist() == [START, END]


@given(st.lists(st.text(LETTERS + " ", max_size=30), min_size=1, max_size=4), st.integers(2, 12))
def test_the_end_token_is_the_first_highest_id(tiny, texts, context):
    rows = tokenizer.encode(tiny, texts, context)
    assert rows.shape == (len(texts), context)
    assert (rows[:, 0] == START).all()
    untruncated = [tokenizer.encode(tiny, [text], 99)[0] for text in texts]
    end_positions = [row.tolist().index(END) for row in untruncated]
    assert rows.argmax(axis=1).tolist() == [min(end, context - 1) for end in end_positions]


@pytest.mark.parametrize("texts", ["a dog", [3], [b"dog"]])
def test_texts_must_be_a_list_of_strings(tiny, texts):
    with pytest.raises(UserError, match="list of strings"):
        tokenizer.encode(tiny, texts, 6)


def test_a_context_below_two_tokens_is_an_error(tiny):
    with pytest.raises(UserError, match="context=1: must be at least 2 tokens"):
        tokenizer.encode(tiny, ["dog"], 1)


def test_a_directory_without_tokenizer_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer files .*vocab\.json and merges\.txt"):
        tokenizer.load(str(tmp_path))
    assert tokenizer.files(tmp_path) == []


def test_damaged_tokenizer_files_are_an_error_in_one_line(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read") as error:
        tokenizer.load(str(tmp_path))
    assert "\n" not in str(error.value)


def test_files_lists_only_tokenizer_files(tmp_path):
    directory = write_tokenizer(tmp_path / "clip")
    (directory / "config.json").write_text("{}")
    assert [file.name for file in tokenizer.files(directory)] == ["vocab.json", "merges.txt"]


def test_the_tokenizer_does_not_import_torch_or_tensorflow(tmp_path):
    program = (
        "import sys; from dist_jax.text import tokenizer; "
        "tokenizer.encode(tokenizer.load(sys.argv[1]), ['a dog'], 6); "
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", program, str(write_tokenizer(tmp_path / "clip"))]
    root = Path(__file__).parents[2]
    assert subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True).stdout.strip() == "[]"
