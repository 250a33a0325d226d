"""Shortening of names for plots."""

import pytest

from dist_jax.evaluation.plot_text import shorten


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("a dog", "a dog"),
        ("a\n  dog", "a dog"),
        ("x" * 12, "x" * 12),
        ("x" * 13, "xxxxxxxx ..."),  # no space to break the line
        ("seven c hanged", "seven c ..."),
        ("_private", "_private"),
    ],
)
def test_a_name_has_at_most_twelve_characters(text, short):
    assert shorten(text, 12) == short
