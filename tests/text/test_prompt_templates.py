"""Text features averaged over prompt templates."""

import jax.numpy as jnp
import numpy as np
import pytest

from dist_jax.errors import UserError
from dist_jax.text.prompt_templates import encode_classes, read_templates

FEATURES = {"a {x} b": [1.0, 0.0], "c {x}": [0.0, 1.0], "a dog b": [0.6, 0.8], "c dog": [0.6, -0.8], "dog": [0.0, -1.0]}


def encode(texts: list[str]) -> jnp.ndarray:
    return jnp.asarray([FEATURES[text] for text in texts])


def test_the_features_of_a_class_are_the_normalised_mean_over_the_templates():
    features = encode_classes(encode, ["{x}", "dog"], ["a {} b", "c {}"])
    np.testing.assert_allclose(features, [[0.5**0.5, 0.5**0.5], [1.0, 0.0]], atol=1e-6)


def test_without_templates_the_text_is_the_name():
    np.testing.assert_array_equal(encode_classes(encode, ["dog"], []), [[0.0, -1.0]])


def test_templates_are_the_lines_of_a_file(tmp_path):
    (tmp_path / "templates.txt").write_text("a video of {}\n{}.\n")
    assert read_templates(str(tmp_path / "templates.txt")) == ["a video of {}", "{}."]
    assert read_templates("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("", "no templates in this file"),
        ("a video of {}\na video\n", r"line 2: 'a video' must contain \{\} once"),
        ("{} and {}\n", r"line 1: '\{\} and \{\}' must contain"),
    ],
)
def test_invalid_files_are_rejected(tmp_path, text, message):
    file = tmp_path / "templates.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_templates(str(file))
