"""Prompt templates: texts such as "a video of {}", in which a class name replaces the braces.

The text features of a class are the mean over the templates, as in CLIP's zero-shot evaluation (arXiv 2103.00020,
section 3.1.4). Without templates, the text of a class is its name (the DiST recipe).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dist_jax import files
from dist_jax.errors import UserError
from dist_jax.models.layers import unit


def read_templates(path: str) -> list[str]:
    """The templates in a file, one per line; [] for an empty path.

    Raises:
        UserError: no such file, no templates, or a line without exactly one {}.
    """
    if not path:
        return []
    if not files.exists(path):
        raise UserError(
            f"data.prompt_templates_file={path} does not exist; write one template per line, e.g. a video of {{}}"
        )
    templates = files.read_text(path).splitlines()
    if not templates:
        raise UserError(f"{path}: no templates in this file; write one per line, e.g. a video of {{}}")
    for number, template in enumerate(templates, 1):
        if template.count("{}") != 1:
            raise UserError(f"{path}, line {number}: {template!r} must contain {{}} once, in place of the class name")
    return templates


def encode_classes(
    encode: Callable[[list[str]], jax.Array], class_names: Sequence[str], templates: Sequence[str]
) -> jax.Array:
    """Text features of classes.

    Args:
        encode: texts -> float32 [n, E], unit length (`ClipModel.encode_texts`).
        class_names: K names.
        templates: from `read_templates`; empty: the text of a class is its name.

    Returns:
        float32 [K, E], unit length.
    """
    if not templates:
        return encode(list(class_names))
    # A class name may contain braces, so that str.format cannot be used.
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    features = encode(texts).reshape(len(class_names), len(templates), -1)  # [K, templates, E]
    return unit(jnp.mean(features, axis=1))
