"""Tests of the value of --labels. tests/test_predict.py tests its effect."""

import pytest

from dist_jax.errors import UserError
from dist_jax.inference.class_choice import read_labels


def test_labels_are_a_file_or_a_comma_separated_list(tmp_path):
    (tmp_path / "labels.txt").write_text("one, two\nthree\n")
    assert read_labels(str(tmp_path / "labels.txt")) == ["one, two", "three"]
    assert read_labels("one, two") == ["one", "two"]
    many = [f"class {number}" for number in range(99)]  # longer than a file name can be
    assert read_labels(",".join(many)) == many


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("nowhere.txt", r"--labels nowhere\.txt: no such file"),
        ("a,,b", "names must be unique and not empty"),
        ("a,a", "names must be unique and not empty"),
    ],
)
def test_invalid_labels_raise_an_error(labels, message):
    with pytest.raises(UserError, match=message):
        read_labels(labels)
