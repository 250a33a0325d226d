"""Full fine-tuning of the backbone, for comparison: all its parameters are trained, and the frames are averaged."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.block import Block, run_stacked
from dist_jax.models.layers import ACTIVATIONS, TOKEN_INIT, LayerNorm
from dist_jax.models.video_model import VideoModel


class TrainedVision(nn.Module):
    """CLIP's image tower with the parameters of ClipVision, as a user would write it to train all of them."""

    config: VisionConfig
    dtype: jnp.dtype  # of the arithmetic; parameters are float32

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """Normalised frames [F, H, W, 3] -> image embeddings float32 [F, E], not normalised."""
        c = self.config
        stride = (c.patch_size, c.patch_size)
        patches = nn.Conv(c.width, stride, stride, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding")
        x = patches(frames.astype(self.dtype)).reshape(frames.shape[0], -1, c.width)  # [F, N, D]
        class_token = self.param("class_token", TOKEN_INIT, (c.width,)).astype(self.dtype)
        positions = self.param("positions", TOKEN_INIT, (1 + c.num_patches, c.width)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, c.width)), x], axis=1)  # [F, 1+N, D]
        x = LayerNorm(self.dtype, name="ln_pre")(x + positions[None])
        block = Block(c.num_heads, c.mlp_dim, ACTIVATIONS[c.activation], dtype=self.dtype, name="blocks")
        x = run_stacked(block, x, c.num_layers)
        x = LayerNorm(self.dtype, name="ln_post")(x[:, 0])
        proj = self.param("proj", nn.initializers.normal(c.width**-0.5), (c.width, c.embed_dim))
        return jnp.dot(x, proj.astype(self.dtype)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class FineTunedModel(VideoModel):
    """A VideoModel without DiST network. Its `params` are {"vision": parameters of the image tower}.

    It sees the same frames as the frozen backbone of DiST. The mean of the frame embeddings is the video embedding.
    """

    @property
    def tower(self) -> TrainedVision:
        """The trained module."""
        assert isinstance(self.backbone, ClipBackbone)
        vision = dataclasses.replace(self.backbone.vision, embed_dim=self.dist.output_dim)  # of all labels
        return TrainedVision(vision, self.dtype)

    def init(self, key: jax.Array) -> dict:
        """Initial parameters of the tower."""
        frames = jnp.zeros((1, self.backbone.resolution, self.backbone.resolution, 3), self.dtype)
        return {"vision": self.tower.init(key, frames)["params"]}

    def embed(self, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
        """Normalised frames [B, T, H, W, 3] -> float32 [B, output_dim]; `frozen` is not used."""
        del frozen
        frames = video[:, :: self.dist.alpha]  # [B, S, H, W, 3]
        embeddings = self.tower.apply({"params": params["vision"]}, frames.reshape(-1, *frames.shape[2:]))
        return jnp.mean(embeddings.reshape(*frames.shape[:2], -1), axis=1)
