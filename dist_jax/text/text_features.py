"""Text features of token ids, from the text tower of a backbone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.errors import UserError
from dist_jax.models.backbones.base import Backbone
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.layers import matmul_precision, unit

_BATCH_SIZE = 128  # texts per call of the text tower


def encode_tokens(backbone: Backbone, params: dict, tokens: np.ndarray) -> jax.Array:
    """Token ids int32 [K, context] -> text embeddings float32 [K, E], unit length.

    The text tower always runs in full float32 precision, because it runs only once. `params` is the backbone's tree.
    """
    size = min(len(tokens), _BATCH_SIZE)
    padding = np.repeat(tokens[:1], -len(tokens) % size, axis=0)  # equal batch sizes: one compilation
    padded = np.concatenate([tokens, padding])
    with matmul_precision(jnp.float32):
        batches = [_embed_text(backbone, params, padded[start : start + size]) for start in range(0, len(padded), size)]
    return jnp.concatenate(batches)[: len(tokens)]


def check_tokens(tokens: np.ndarray, config: TextConfig) -> np.ndarray:
    """Checks token ids and truncates them to the context: int [K, any length] -> int32 [K, at most context].

    A text longer than the context keeps its end token.

    Raises:
        UserError: the errors of `check_ids`, or a text without end token.
    """
    check_ids(tokens, config)
    ends = tokens == (tokens.max(axis=1, keepdims=True) if config.end_token is None else config.end_token)
    without_end = np.flatnonzero(~ends.any(axis=1))
    if without_end.size:
        raise UserError(f"text {without_end[0]} has no end token ({config.end_token})")
    end = ends.argmax(axis=1)
    too_long = end >= config.context_length
    truncated = tokens[:, : config.context_length].astype(np.int32)
    truncated[too_long, -1] = tokens[too_long, end[too_long]]
    return truncated


def check_ids(tokens: np.ndarray, config: TextConfig) -> None:
    """Raises UserError unless `tokens` are int [K, any length] in the vocabulary."""
    if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(f"token ids are {tokens.dtype}{list(tokens.shape)}; expected int [K, {config.context_length}]")
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise UserError(f"token ids range from {tokens.min()} to {tokens.max()}; must be 0 to {config.vocab_size - 1}")


@partial(jax.jit, static_argnums=0)
def _embed_text(backbone: Backbone, params: dict, tokens: jax.Array) -> jax.Array:
    return unit(backbone.text_embeddings(params, tokens))
