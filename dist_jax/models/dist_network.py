"""The DiST network (arXiv 2309.07911, section 3): temporal encoder, integration branch and pooling.

Symbols: B clips, T frames, S = T / alpha frames of the backbone, N = h * w patches, D backbone width, C integration
width, M temporal width, E joint embedding, L_selected backbone blocks that are read. "1+N" means the tokens of a frame:
the backbone's prefix tokens (1 for CLIP, the class token), then N patches.

Inside the network, clips and channels are the last axes: z [h, w, T * B, M], where row t * B + b is frame t of clip b;
m and r [1+N, *rows, C], where rows are (S, B), or (S * B) if there are few clips per device. Operations along time or
space, and those on the prefix tokens, then select and shift whole tiles of a TPU.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dist_jax.models.convolutions import TILE_ROWS, TemporalStem, temporal_conv
from dist_jax.models.layers import (
    TOKEN_INIT,
    KernelAndBias,
    LayerNorm,
    Linear,
    ScaleAndBias,
    last_axis,
    quick_gelu,
    standardize,
)
from dist_jax.models.pooling import PoolingLayer
from dist_jax.models.temporal_block import SAVED_BY_TEMPORAL_BLOCK, TemporalBlock


@dataclasses.dataclass(frozen=True)
class DistConfig:
    """Sizes of a DiST network."""

    num_frames: int  # T
    alpha: int  # the backbone sees every alpha-th frame
    layers: tuple[int, ...]  # backbone blocks that are read, counted from 0, increasing
    patch_size: int  # pixels; the backbone's, so both grids are the same
    backbone_width: int  # D
    embed_dim: int  # E
    integration_width: int  # C, a multiple of 64
    temporal_width: int  # M
    num_pooling_layers: int  # P
    num_labels: int = 1  # labels of a video; each has its own projection into the joint embedding
    num_classes: int = 0  # classes of all labels, for networks with their own linear classifier; 0: text classifies

    @property
    def output_dim(self) -> int:
        """Size of the network's output: embeddings or logits for all labels, one label after the other."""
        return self.num_classes or self.num_labels * self.embed_dim

    @property
    def num_sparse_frames(self) -> int:
        """S, frames that the backbone sees."""
        return self.num_frames // self.alpha


def input_shapes(config: DistConfig, num_tokens: int, resolution: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Features, frame summary and video of one clip, float32: the arguments of a network's `init`.

    Args:
        config: sizes of the network.
        num_tokens: 1+N, tokens of a frame.
        resolution: height and width of a frame, pixels.
    """
    num_frames, width = config.num_sparse_frames, config.backbone_width
    shapes = (
        (len(config.layers), num_frames, 1, num_tokens, width),  # [L_selected, S, B, 1+N, D]
        (num_frames, 1, width),  # [S, B, D]
        (1, config.num_frames, resolution, resolution, 3),  # [B, T, H, W, 3]
    )
    return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)


# What a DiST layer saves for its backward pass: the outputs of the matrix products and convolutions and the moments of
# the LayerNorms. LayerNorms and activations are computed again: they cost less than storing and loading their results.
_SAVED = (*SAVED_BY_TEMPORAL_BLOCK, "moments", "m", "m_fused", "ffn_hidden", "tffn_reduced", "tffn_conv")

REMAT_POLICIES = {  # config.model.remat -> what a DiST layer saves for its backward pass
    "elementwise": jax.checkpoint_policies.save_only_these_names(*_SAVED),
    "layers": jax.checkpoint_policies.nothing_saveable,
}


class DistNetwork(nn.Module):
    """Frozen features and all frames of a clip -> one embedding in the backbone's joint space."""

    config: DistConfig
    dtype: jnp.dtype = jnp.float32  # of the arithmetic; parameters and the embedding are float32
    remat: str = "elementwise"  # key of REMAT_POLICIES
    device_kind: str = ""  # jax.Device.device_kind of the devices that run it; empty: any

    @nn.compact
    def __call__(self, features: jax.Array, frame_summary: jax.Array, video: jax.Array) -> jax.Array:
        """Embeds clips.

        Args:
            features: residual stream of the selected backbone blocks, float [L_selected, S, B, 1+N, D].
            frame_summary: `Backbone.frame_summary` of the last selected block, float [S, B, D].
            video: all frames, normalised as for the backbone, float [B, T, H, W, 3].

        Returns:
            Video embeddings, float32 [B, num_labels * E], not normalised.
        """
        c = self.config
        z = TemporalStem(c.temporal_width, c.patch_size, self.dtype, name="temporal_stem")(video)  # [h, w, T * B, M]
        y = self._layers(z, _tokens_first(features))  # [1+N, S, B, C]
        pooled = self._pool(y)  # [B, C]
        summary = jnp.mean(frame_summary.astype(jnp.float32), axis=0)  # [B, D]
        pooled = pooled + Linear(c.integration_width, dtype=self.dtype, name="class_projection")(summary)
        proj_init = nn.initializers.normal(c.integration_width**-0.5)
        proj = self.param("proj", proj_init, (c.integration_width, c.output_dim))
        # Full precision on accelerators too: the logits are float32 and this product is small.
        return jnp.dot(LayerNorm(jnp.float32, name="ln_post")(pooled), proj, precision=jax.lax.Precision.HIGHEST)

    def _layers(self, z: jax.Array, features: jax.Array) -> jax.Array:
        """All DiST layers: z [h, w, T * B, M], features [L_selected, 1+N, *rows, D] -> r + m' [1+N, S, B, C]."""
        c = self.config
        num_patches = z.shape[0] * z.shape[1]
        layer = DistLayer(c, features.shape[1] - num_patches, self.dtype, self.device_kind, parent=None)
        block = TemporalBlock(c.num_frames, self.dtype, self.device_kind, parent=None)
        r = jnp.zeros((*features.shape[1:-1], c.integration_width), self.dtype)

        def init_layers(key: jax.Array) -> dict:
            keys = jax.random.split(key, len(c.layers))
            return jax.vmap(lambda key: layer.init(key, z, r, features[0])["params"])(keys)

        # `self.param` traces its initialiser to compare shapes, also if the parameter exists. This takes a fifth of the
        # time of tracing the network, and `layer.apply` compares them again.
        exists = self.has_variable("params", "layers")
        params = self.get_variable("params", "layers") if exists else self.param("layers", init_layers)
        temporal, params = params["temporal"], {name: value for name, value in params.items() if name != "temporal"}
        checkpointed = partial(jax.checkpoint, policy=REMAT_POLICIES[self.remat], prevent_cse=False)

        @checkpointed
        def first_block(params: dict, z: jax.Array) -> jax.Array:
            nothing = jnp.zeros((num_patches, c.num_sparse_frames * z.shape[2] // c.num_frames, z.shape[-1]), z.dtype)
            return block.apply({"params": params}, z, nothing)

        # `features` is indexed inside: the backward pass reads it again instead of a saved copy of each layer's part.
        @checkpointed
        def run_layer(params: dict, z: jax.Array, r: jax.Array, index: jax.Array) -> tuple[jax.Array, ...]:
            feature = jax.lax.dynamic_index_in_dim(features, index, keepdims=False)
            method = "__call__" if "temporal" in params else "exchange"
            return layer.apply({"params": params}, z, r, feature, method=method)

        def step(carry: tuple[jax.Array, jax.Array], layer_inputs: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
            params, index = layer_inputs
            z, r, _ = run_layer(params, *carry, index)
            return (z, r), None

        # One round of the loop is a layer without its temporal block, then the temporal block of the next layer: the
        # exchange is the kernel's first operation, and the saved carry is what the backward pass of the layer reads.
        # The last layer runs outside: only its m' is used, so the others need no gradient of m'.
        indices = jnp.arange(len(c.layers), dtype=jnp.int32)
        z = first_block(jax.tree.map(lambda leaf: leaf[0], temporal), z)
        most = jax.tree.map(lambda leaf: leaf[:-1], params)
        most["temporal"] = jax.tree.map(lambda leaf: leaf[1:], temporal)
        (z, r), _ = jax.lax.scan(step, (z, r), (most, indices[:-1]))
        _, r, m = run_layer(jax.tree.map(lambda leaf: leaf[-1], params), z, r, indices[-1])
        return (r + m).reshape(r.shape[0], c.num_sparse_frames, -1, c.integration_width)

    def _pool(self, y: jax.Array) -> jax.Array:
        """[1+N, S, B, C] -> [B, C]: P layers with one spatial query per frame and one video query per clip."""
        c = self.config
        _, num_frames, batch, width = y.shape
        spatial = self.param("spatial_query", TOKEN_INIT, (width,)).astype(self.dtype)
        video = self.param("video_query", TOKEN_INIT, (width,)).astype(self.dtype)
        pooling = nn.scan(
            PoolingLayer,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_pooling_layers,
        )
        queries = jnp.broadcast_to(spatial, (num_frames, batch, width)), jnp.broadcast_to(video, (batch, 1, width))
        tokens = standardize(y).astype(self.dtype)  # every layer's LayerNorm begins with it
        (_, video), _ = pooling(num_frames, self.dtype, name="pooling")(queries, tokens)
        return video[:, 0]


def _tokens_first(features: jax.Array) -> jax.Array:
    """[L_selected, S, B, 1+N, D] -> [L_selected, 1+N, *rows, D]; rows are (S, B) or (S * B)."""
    features = features.transpose(0, 3, 1, 2, 4)  # [L_selected, 1+N, S, B, D]
    if features.shape[3] >= TILE_ROWS:
        return features
    return features.reshape(*features.shape[:2], -1, features.shape[-1])


class Ffn(nn.Module):
    """Linear C -> C, g, linear C -> C; per token."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[1+N, *rows, C] -> [1+N, *rows, C]."""
        width = x.shape[-1]
        hidden = checkpoint_name(Linear(width, dtype=self.dtype, name="fc")(x), "ffn_hidden")
        return Linear(width, dtype=self.dtype, name="proj")(quick_gelu(hidden))


class TemporalFfn(nn.Module):
    """Linear C -> C/4, convolution along time (kernel 3), g, linear C/4 -> C; per token."""

    num_frames: int  # S
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[1+N, *rows, C] -> [1+N, *rows, C]."""
        width, reduced = x.shape[-1], x.shape[-1] // 4
        hidden = checkpoint_name(Linear(reduced, dtype=self.dtype, name="reduce")(x), "tffn_reduced")
        kernel, bias = KernelAndBias((3, reduced, reduced), (reduced,), self.dtype, name="conv_time")()
        hidden = checkpoint_name(temporal_conv(hidden, kernel, bias, self.num_frames), "tffn_conv")
        return Linear(width, dtype=self.dtype, name="expand")(quick_gelu(hidden))


class DistLayer(nn.Module):
    """The layer that reads one backbone block, from its exchanges to the temporal block of the next layer."""

    config: DistConfig
    num_prefix: int  # tokens of a frame before the patches
    dtype: jnp.dtype
    device_kind: str  # see DistNetwork

    def setup(self) -> None:  # noqa: D102
        c = self.config
        linear = partial(Linear, dtype=self.dtype)
        self.temporal = TemporalBlock(c.num_frames, self.dtype, self.device_kind)
        self.input = linear(c.integration_width)
        self.to_temporal = linear(c.temporal_width)
        shape = (c.alpha, c.temporal_width, c.integration_width)
        self.to_integration = KernelAndBias(shape, shape[-1:], self.dtype)
        if self.num_prefix:
            self.class_token = self.param("class_token", TOKEN_INIT, (c.num_sparse_frames, c.integration_width))
        self.ln, self.ln_temporal = ScaleAndBias(self.dtype), ScaleAndBias(self.dtype)
        self.ffn, self.temporal_ffn = Ffn(self.dtype), TemporalFfn(c.num_sparse_frames, self.dtype)

    def __call__(self, z: jax.Array, r: jax.Array, feature: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`exchange`, then the temporal block. Arguments as in `exchange`; returns z', r and m'."""
        to_temporal, r, m = self.exchange(z, r, feature)
        return self.temporal(z, to_temporal), r, m

    def exchange(self, z: jax.Array, r: jax.Array, feature: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The exchanges in both directions, and the integration.

        Args:
            z: output of the layer's temporal block, [h, w, T * B, M]; frames before clips.
            r: of the previous layer, [1+N, *rows, C].
            feature: f_i, the residual stream after the backbone block, [1+N, *rows, D].

        Returns:
            What the integration branch adds to z, [N, S * B, M], once per frame of the backbone. r and m' with the
            shape of r.
        """
        c = self.config
        m = checkpoint_name(self.input(feature) + r, "m")  # [1+N, *rows, C]
        # Both exchanges read the values from before the exchange.
        to_temporal = self.to_temporal(m[self.num_prefix :])  # [N, *rows, M]
        m = checkpoint_name(m + self._from_temporal(z, m.shape[1:-1]), "m_fused")
        normal = standardize(m)  # shared by both LayerNorms
        r = self.ffn(self.ln(normal)) + self.temporal_ffn(self.ln_temporal(normal))
        return to_temporal.reshape(len(to_temporal), -1, c.temporal_width), r, m

    def _from_temporal(self, z: jax.Array, rows: tuple[int, ...]) -> jax.Array:
        """[h, w, T * B, M] -> [1+N, *rows, C]: convolution (alpha,1,1), stride alpha, and a learned prefix token."""
        c = self.config
        kernel, bias = self.to_integration()
        grouped = z.reshape(-1, c.num_sparse_frames, c.alpha, z.shape[2] // c.num_frames, c.temporal_width)
        patches = jnp.einsum("nsabm,amc->nsbc", grouped, kernel)
        frames, patches = patches.shape[1:], patches.reshape(len(patches), *rows, -1)  # (S, B, C), [N, *rows, C]
        if not self.num_prefix:
            return patches + last_axis(bias, patches)
        # Sums of whole arrays: XLA then adds up the gradient of the bias in the pass that computes the gradient of m.
        num_patches, no_padding = len(patches), [(0, 0)] * (patches.ndim - 1)
        patches = jnp.pad(patches, [(self.num_prefix, 0), *no_padding])
        is_patch = (jnp.arange(len(patches)) >= self.num_prefix).astype(self.dtype)
        token = jnp.broadcast_to(self.class_token.astype(self.dtype)[:, None], frames).reshape(*rows, -1)
        tokens = jnp.broadcast_to(token, (self.num_prefix, *token.shape))
        tokens = jnp.pad(tokens, [(0, num_patches), *no_padding])
        return patches + tokens + jnp.expand_dims(is_patch, range(1, patches.ndim)) * last_axis(bias, patches)
