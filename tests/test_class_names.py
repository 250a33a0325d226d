"""Tests of files of class names."""

import pytest

from dist_jax import class_names
from dist_jax.errors import UserError


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\n\nb\n", "line 2 is empty"), ("", "no class names"), ("a\nb\na\n", "1 and 3 are both 'a'")],
)
def test_invalid_label_files_are_an_error(tmp_path, content, message):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        class_names.read(tmp_path / "labels.txt")


def test_a_text_is_split_at_commas_and_line_breaks():
    assert class_names.split("a dog,a cat\n surfing \n", "labels") == ["a dog", "a cat", "surfing"]


@pytest.mark.parametrize("text", ["", " \n", "a,,b", "a,", "a\n\nb", "a, b\na"])
def test_split_names_are_unique_and_not_empty(text):
    with pytest.raises(UserError, match="names must be unique and not empty"):
        class_names.split(text, "labels")


def test_names_are_read_as_they_are_written(tmp_path):
    names = ["a dog", "größer 猫"]
    (tmp_path / "labels.txt").write_text(class_names.to_text(names), encoding="utf-8")
    assert class_names.read(tmp_path / "labels.txt") == names
