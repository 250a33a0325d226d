"""What the image towers share: their sizes, the patch embedding, and pre-LN blocks whose residual stream DiST reads."""

import dataclasses
import math
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dist_jax.distributed.sharding import num_batch_shards
from dist_jax.models.attention import FrozenAttention
from dist_jax.models.block import Block
from dist_jax.models.convolutions import patch_conv
from dist_jax.models.layers import ACTIVATIONS, TOKEN_INIT, LayerNorm, last_axis
from dist_jax.models.rotary import Rotary


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of an image tower."""

    width: int  # D
    num_layers: int  # L
    num_heads: int
    patch_size: int  # pixels, height and width of a patch
    resolution: int  # pixels, height and width of a frame
    embed_dim: int  # E
    activation: str = "quick_gelu"  # key of ACTIVATIONS
    mlp_dim: int = 0  # hidden width of the MLPs; 0: 4 * width

    def __post_init__(self) -> None:
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.width)

    @property
    def num_patches(self) -> int:
        """N, patches of a frame."""
        return (self.resolution // self.patch_size) ** 2


# Chunks of frames run one after another. The residual stream, query, key, value and the output of the attention of a
# chunk take at most this many bytes: three quarters of the 128 MiB of fast memory of a TPU v5e.
MAX_CHUNK_BYTES = 96 * 2**20


class VisionTower(nn.Module):
    """An image tower. The blocks are scanned; their parameters are stacked [L, ...].

    A subclass defines the tokens of the first block and what it makes of the stream after the last one. Its name ends
    with "Vision", by which `cost.cycles` finds its instructions. "P+N" are the tokens of a frame: prefix tokens, then
    patches.
    """

    config: VisionConfig
    dtype: jnp.dtype = jnp.float32
    quantize: str = ""  # of the linear layers in the blocks: key of QUANTIZED_DTYPES; empty: float layers
    mesh: Mesh | None = None  # the devices that share the clips and the heads, see FrozenAttention

    eps: ClassVar[float] = 1e-5  # of the LayerNorms
    patch_bias: ClassVar[bool] = False  # whether the patch embedding has a bias

    def setup(self) -> None:  # noqa: D102
        c = self.config
        self.patch_embedding = PatchEmbedding(c.width, c.patch_size, self.dtype, self.patch_bias)
        self.blocks = Block(
            c.num_heads,
            c.mlp_dim,
            ACTIVATIONS[c.activation],
            dtype=self.dtype,
            quantize=self.quantize,
            attention=partial(FrozenAttention, mesh=self.mesh, rotary=self.rotary),
            eps=self.eps,
        )
        self.ln_post = LayerNorm(self.dtype, self.eps)

    @property
    def rotary(self) -> Rotary | None:
        """Rotary positions in the attention of the blocks; None: only the learned positions."""
        return None

    def tokens(self, frames: jax.Array) -> jax.Array:
        """Normalised frames [B, S, H, W, 3] -> the tokens of the first block [S, B, P+N, D]."""
        raise NotImplementedError

    def features(self, frames: jax.Array, layers: tuple[int, ...]) -> jax.Array:
        """The residual stream after the chosen blocks, prefix tokens first.

        Args:
            frames: normalised, float [B, S, H, W, 3].
            layers: increasing block numbers, counted from 0. The last one must be the tower's last block.

        Returns:
            [len(layers), S, B, P+N, D] in `dtype`.

        Raises:
            ValueError: the last chosen block is not the tower's last.
        """
        last = self.config.num_layers - 1
        if layers[-1] != last:
            raise ValueError(f"the last chosen block is {layers[-1]}, the tower's last is {last}; see first_layers")
        x = self.tokens(frames)  # [S, B, P+N, D]
        num_frames, batch, *token_shape = x.shape
        num_shards = 1 if self.mesh is None else num_batch_shards(self.mesh)
        token_bytes = math.prod(token_shape) * x.dtype.itemsize
        chunk = frames_per_chunk(num_frames, -(-batch // num_shards), token_bytes)
        x = x.reshape(-1, chunk, *x.shape[1:])  # [chunks, frames of a chunk, B, P+N, D]
        # One buffer holds exactly the chosen layers. Block l reads the slot of block l - 1 and writes the slot of the
        # first chosen block >= l: a chosen block runs last and overwrites the others. Block 0 reads what it overwrites.
        slots = np.searchsorted(np.asarray(layers), np.arange(self.config.num_layers)).astype(np.int32)  # [L]
        buffer = jax.lax.empty((len(layers), *x.shape), self.dtype)
        buffer = jax.lax.dynamic_update_index_in_dim(buffer, x, slots[0], axis=0)
        scan = nn.scan(
            _run_block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.config.num_layers
        )
        buffer, _ = scan(self.blocks, buffer, (jnp.asarray(slots[[0, *range(last)]]), jnp.asarray(slots)))
        return buffer.reshape(len(layers), num_frames, *x.shape[2:])


class PatchEmbedding(nn.Module):
    """Linear layer on the pixels of each patch."""

    width: int
    patch_size: int
    dtype: jnp.dtype
    use_bias: bool

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """[B, S, H, W, 3] -> [N, B, S, width]."""
        b, s, *image = frames.shape
        kernel = self.param("kernel", TOKEN_INIT, (self.patch_size, self.patch_size, 3, self.width))
        frames = frames.astype(self.dtype).reshape(b * s, *image)
        patches = patch_conv(frames, kernel.astype(self.dtype)).reshape(-1, b, s, self.width)
        if not self.use_bias:
            return patches
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        return patches + last_axis(bias.astype(self.dtype), patches)


def with_class_token(class_token: jax.Array, patches: jax.Array) -> jax.Array:
    """The class token [D] before the patches [N, B, S, D] -> [1+N, B, S, D] in the dtype of `patches`."""
    first = jnp.broadcast_to(class_token.astype(patches.dtype), (1, *patches.shape[1:]))
    return jnp.concatenate([first, patches], axis=0)


def frames_per_chunk(num_frames: int, clips_per_device: int, token_bytes: int) -> int:
    """Frames of each clip in a chunk: the largest divisor of `num_frames` that fits MAX_CHUNK_BYTES, or 1.

    Args:
        num_frames: S.
        clips_per_device: B of one device.
        token_bytes: of all tokens of one frame, (P+N) * D numbers.
    """
    frame_bytes = 5 * clips_per_device * token_bytes  # of one frame per clip
    fitting = (d for d in range(num_frames, 0, -1) if num_frames % d == 0 and d * frame_bytes <= MAX_CHUNK_BYTES)
    return next(fitting, 1)


def _run_block(block: Block, buffer: jax.Array, slots: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    """Runs a block on all chunks: buffer [len(layers), chunks, frames, B, P+N, D], slots (read, written) int32 []."""
    read, written = slots

    def run_chunk(block: Block, buffer: jax.Array, chunk: jax.Array) -> tuple[jax.Array, None]:
        origin = (0,) * (buffer.ndim - 2)
        x = jax.lax.dynamic_slice(buffer, (read, chunk, *origin), (1, 1, *buffer.shape[2:]))
        # [frames, B, P+N, D]; XLA chooses better layouts without an axis of size 1.
        tokens = x.reshape(x.shape[3:] if x.shape[2] == 1 else x.shape[2:])
        x = block(tokens).reshape(x.shape)
        return jax.lax.dynamic_update_slice(buffer, x, (written, chunk, *origin)), None

    num_chunks = buffer.shape[1]
    chunks = nn.scan(run_chunk, variable_broadcast="params", split_rngs={"params": False}, length=num_chunks)
    return chunks(block, buffer, jnp.arange(num_chunks, dtype=jnp.int32))[0], None
