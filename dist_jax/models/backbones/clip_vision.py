"""CLIP's image tower (Radford et al., arXiv 2103.00020): a pre-LN ViT whose residual stream DiST reads."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.models.layers import ACTIVATIONS, TOKEN_INIT, Block, LayerNorm


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of an image tower."""

    width: int  # D
    num_layers: int  # L
    num_heads: int
    patch_size: int  # pixels, height and width of a patch
    resolution: int  # pixels, height and width of a frame
    embed_dim: int  # E
    activation: str = "quick_gelu"  # quick_gelu | gelu
    mlp_dim: int = 0  # hidden width of the MLPs; 0: 4 * width

    def __post_init__(self) -> None:
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.width)

    @property
    def num_patches(self) -> int:
        """N, patches of a frame."""
        return (self.resolution // self.patch_size) ** 2


class ClipVision(nn.Module):
    """The image tower. The blocks are scanned; their parameters are stacked [L, ...]."""

    config: VisionConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:  # noqa: D102
        c = self.config
        self.patch_embedding = nn.Conv(
            c.width,
            (c.patch_size, c.patch_size),
            (c.patch_size, c.patch_size),
            "VALID",
            use_bias=False,
            dtype=self.dtype,
        )
        self.class_token = self.param("class_token", TOKEN_INIT, (c.width,))
        self.positions = self.param("positions", TOKEN_INIT, (1 + c.num_patches, c.width))
        self.ln_pre = LayerNorm(self.dtype)
        self.blocks = Block(c.num_heads, c.mlp_dim, ACTIVATIONS[c.activation], dtype=self.dtype)
        self.ln_post = LayerNorm(self.dtype)
        self.proj = self.param("proj", nn.initializers.normal(c.width**-0.5), (c.width, c.embed_dim))

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Normalised frames [F, H, W, 3] -> CLIP's image embeddings float32 [F, E], not normalised."""
        return self.embed(self.features(frames, (self.config.num_layers - 1,))[0, :, 0])

    def features(self, frames: jax.Array, layers: tuple[int, ...]) -> jax.Array:
        """The residual stream after the chosen blocks, class token first.

        Args:
            frames: normalised, float [F, H, W, 3].
            layers: increasing block numbers, counted from 0. The last one must be the tower's last block.

        Returns:
            [len(layers), F, 1+N, D] in `dtype`.

        Raises:
            ValueError: the last chosen block is not the tower's last.
        """
        last = self.config.num_layers - 1
        if layers[-1] != last:
            raise ValueError(f"the last chosen block is {layers[-1]}, the tower's last is {last}; see first_layers")
        x = self._tokens(frames)  # [F, 1+N, D]
        # Block l writes into the slot of the first chosen block >= l. The chosen block runs last and overwrites the
        # others, so the buffer holds exactly the chosen layers and the loop has no branch.
        slots = np.searchsorted(np.asarray(layers), np.arange(self.config.num_layers)).astype(np.int32)  # [L]
        buffer = jnp.zeros((len(layers), *x.shape), self.dtype)
        scan = nn.scan(
            _run_block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.config.num_layers
        )
        (_, buffer), _ = scan(self.blocks, (x, buffer), jnp.asarray(slots))
        return buffer

    def embed(self, class_tokens: jax.Array) -> jax.Array:
        """Class tokens after the last block [..., D] -> image embeddings float32 [..., E], not normalised."""
        return jnp.dot(self.ln_post(class_tokens), self.proj.astype(self.dtype)).astype(jnp.float32)

    def _tokens(self, frames: jax.Array) -> jax.Array:
        patches = self.patch_embedding(frames.astype(self.dtype))  # [F, h, w, D]
        patches = patches.reshape(frames.shape[0], -1, self.config.width)  # [F, N, D]
        first = jnp.broadcast_to(self.class_token.astype(self.dtype), (frames.shape[0], 1, self.config.width))
        x = jnp.concatenate([first, patches], axis=1)  # [F, 1+N, D]
        return self.ln_pre(x + self.positions.astype(self.dtype)[None])


def _run_block(
    block: Block, carry: tuple[jax.Array, jax.Array], slot: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], None]:
    x, buffer = carry
    x = block(x)
    return (x, jax.lax.dynamic_update_index_in_dim(buffer, x, slot, axis=0)), None
