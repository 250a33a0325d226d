"""Probes: small classifiers on the frozen features of one backbone block, to compare with the DiST network.

Each reads the last selected block. The outputs are logits of all classes. Symbols: see `dist_network`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.errors import UserError
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.layers import TOKEN_INIT, LayerNorm, LayerNormParameters, Linear, Mlp, exact_gelu, standardize
from dist_jax.models.pooling import SingleQueryAttention

HEAD_WIDTH = 64


class Probe(nn.Module):
    """Base class: a frozen feature of a clip and a linear classifier."""

    config: DistConfig
    dtype: jnp.dtype = jnp.float32  # of the arithmetic before the classifier; parameters and logits are float32
    remat: str = "elementwise"  # not used: the backward pass saves little
    device_kind: str = ""  # not used

    has_own_classes = True
    reads_last_layer = True

    def classify(self, pooled: jax.Array) -> jax.Array:
        """[B, D] -> logits float32 [B, num_classes]."""
        classifier = Linear(self.config.num_classes, precision=jax.lax.Precision.HIGHEST, name="classifier")
        return classifier(pooled.astype(jnp.float32))


class LinearProbe(Probe):
    """A linear classifier on the mean of the frame summaries (CLIP: the class token after the block).

    As in CLIP (arXiv 2103.00020, section 3.2), the features are those before the joint embedding. MAE (arXiv
    2111.06377, appendix A.1) normalises features of unknown scale with a BatchNorm without scale and bias. Here it is a
    LayerNorm without scale and bias: the logits of a clip do not depend on the other clips.
    """

    @nn.compact
    def __call__(self, features: jax.Array, frame_summary: jax.Array, video: jax.Array) -> jax.Array:
        """Frame summaries [S, B, D] -> logits float32 [B, num_classes]; the other arguments are not used."""
        del features, video
        return self.classify(standardize(jnp.mean(frame_summary.astype(jnp.float32), axis=0)))


class AttentiveProbe(Probe):
    """The attentive probe of V-JEPA (arXiv 2404.08471, section 4 and appendix): a learned query, then a linear layer.

    The query attends to the tokens of all frames; LayerNorm of the tokens, D / 64 heads. Then follows an MLP of width
    4 D with LayerNorm and GELU. Both are residual. As in the released evaluation of image backbones, there are no
    positions of frames: the order of the frames has no effect.
    """

    @nn.compact
    def __call__(self, features: jax.Array, frame_summary: jax.Array, video: jax.Array) -> jax.Array:
        """Features [1, S, B, 1+N, D] -> logits float32 [B, num_classes]; the other arguments are not used.

        Raises:
            UserError: D is not a multiple of 64.
        """
        del frame_summary, video
        _, num_frames, batch, num_tokens, width = features.shape
        if width % HEAD_WIDTH:
            raise UserError(f"model.network=attentive_probe: the backbone has width {width}; must be a multiple of 64")
        tokens = features[0].swapaxes(1, 2).reshape(num_frames * num_tokens, 1, batch, width)
        query = self.param("video_query", TOKEN_INIT, (width,)).astype(self.dtype)
        query = jnp.broadcast_to(query, (1, batch, width))
        scale, bias = LayerNormParameters(width, name="ln_tokens")()
        attention = SingleQueryAttention(width // HEAD_WIDTH, self.dtype, name="probe_attention")
        pooled = query + attention(query, standardize(tokens).astype(self.dtype), scale, bias)
        x = LayerNorm(self.dtype, name="ln_mlp")(pooled)
        pooled = pooled + Mlp(4 * width, exact_gelu, self.dtype, name="probe_mlp")(x)
        return self.classify(pooled[0])
