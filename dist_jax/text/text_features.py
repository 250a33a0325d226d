"""Token ids -> text embeddings, by CLIP's text tower."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.errors import UserError
from dist_jax.models.backbones.clip_text import ClipText, TextConfig
from dist_jax.models.layers import matmul_precision, unit

_ROWS = 128  # texts encoded at a time


def encode_tokens(config: TextConfig, params: dict, tokens: np.ndarray) -> jax.Array:
    """Token ids int [K, any length] -> text embeddings float32 [K, E], unit length, some texts at a time.

    The tower is computed in float32, in full precision, whatever the image tower is computed in: it runs once.

    Raises:
        UserError: for ids that `check_tokens` refuses.
    """
    module = ClipText(config)
    tokens = check_tokens(tokens, config)
    rows = min(len(tokens), _ROWS)
    padding = np.repeat(tokens[:1], -len(tokens) % rows, axis=0)  # every part as long as the first: one compilation
    padded = np.concatenate([tokens, padding])
    with matmul_precision(jnp.float32):
        parts = [_embed_text(module, params, padded[row : row + rows]) for row in range(0, len(padded), rows)]
    return jnp.concatenate(parts)[: len(tokens)]


def check_tokens(tokens: np.ndarray, config: TextConfig) -> np.ndarray:
    """Token ids int [K, any length] -> int32 [K, at most context]; a longer text keeps its end token.

    Raises:
        UserError: for another shape or dtype, ids outside the vocabulary, or a text without its end token.
    """
    if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(f"token ids are {tokens.dtype}{list(tokens.shape)}; wanted int [K, {config.context_length}]")
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise UserError(f"token ids reach from {tokens.min()} to {tokens.max()}; wanted 0 to {config.vocab_size - 1}")
    ends = tokens == (tokens.max(axis=1, keepdims=True) if config.end_token is None else config.end_token)
    without = np.flatnonzero(~ends.any(axis=1))
    if without.size:
        raise UserError(f"text {without[0]} has no end token ({config.end_token}), where it would be read")
    end = ends.argmax(axis=1)
    too_long = end >= config.context_length
    cut = tokens[:, : config.context_length].astype(np.int32)
    cut[too_long, -1] = tokens[too_long, end[too_long]]
    return cut


@partial(jax.jit, static_argnums=0)
def _embed_text(module: ClipText, params: dict, tokens: jax.Array) -> jax.Array:
    return unit(module.apply({"params": params}, tokens))
