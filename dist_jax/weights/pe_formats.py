"""Tables of tensor names for the published formats of Perception Encoder Core.

Our tree: {"vision": parameters of PeVision, "text": parameters of ClipText, "logit_scale"}. Not all sizes have a class
token.
"""

from dist_jax.weights.clip_formats import PATCHES, PROBE, openai_blocks, openai_text
from dist_jax.weights.table import (
    FROM_HEADS,
    HEADS_BIAS,
    INTO_HEADS,
    Entry,
    Table,
    axes,
    fused_attention,
    joint_attention,
    layer_norm,
    linear,
)

CLASS_TOKEN = "vision/class_token"
_TRUNK = "visual.trunk"  # timm's image tower in open_clip's files
_BLOCK = f"{_TRUNK}.blocks.{{}}"
_POOL = f"{_TRUNK}.attn_pool"

OPEN_CLIP: Table = (
    Entry(f"{_TRUNK}.cls_token", (CLASS_TOKEN,), axes(2, ones=(0, 1))),
    Entry(f"{_TRUNK}.pos_embed", ("vision/positions",), axes(1, 2, ones=(0,))),
    Entry(f"{_TRUNK}.patch_embed.proj.weight", ("vision/patch_embedding/kernel",), PATCHES),
    *layer_norm(f"{_TRUNK}.norm_pre", "vision/ln_pre"),
    *fused_attention(f"{_BLOCK}.attn", "vision/blocks/attention"),
    *layer_norm(f"{_BLOCK}.norm1", "vision/blocks/ln_1"),
    *linear(f"{_BLOCK}.mlp.fc1", "vision/blocks/mlp/fc"),
    *linear(f"{_BLOCK}.mlp.fc2", "vision/blocks/mlp/proj"),
    *layer_norm(f"{_BLOCK}.norm2", "vision/blocks/ln_2"),
    *layer_norm(f"{_TRUNK}.norm", "vision/ln_post"),
    Entry(f"{_POOL}.latent", ("vision/head/probe",), PROBE),
    Entry(f"{_POOL}.q.weight", ("vision/head/attention/query/kernel",), INTO_HEADS),
    Entry(f"{_POOL}.q.bias", ("vision/head/attention/query/bias",), HEADS_BIAS),
    Entry(f"{_POOL}.kv.weight", tuple(f"vision/head/attention/{part}/kernel" for part in ("key", "value")), INTO_HEADS),
    Entry(f"{_POOL}.kv.bias", tuple(f"vision/head/attention/{part}/bias" for part in ("key", "value")), HEADS_BIAS),
    *linear(f"{_POOL}.proj", "vision/head/attention/out", FROM_HEADS),
    *layer_norm(f"{_POOL}.norm", "vision/head/ln"),
    *linear(f"{_POOL}.mlp.fc1", "vision/head/mlp/fc"),
    *linear(f"{_POOL}.mlp.fc2", "vision/head/mlp/proj"),
    *linear(f"{_TRUNK}.head", "vision/proj"),
    *openai_text("text."),
    Entry("logit_scale", ("logit_scale",)),
)

# The files of facebook/PE-Core-*. They have no bias of the projection: it is 0.
PROJ_BIAS = "visual.proj.bias"
META: Table = (
    Entry("visual.class_embedding", (CLASS_TOKEN,)),
    Entry("visual.positional_embedding", ("vision/positions",)),
    Entry("visual.conv1.weight", ("vision/patch_embedding/kernel",), PATCHES),
    *layer_norm("visual.ln_pre", "vision/ln_pre"),
    *openai_blocks("visual.transformer.resblocks.{}", "vision/blocks"),
    *layer_norm("visual.ln_post", "vision/ln_post"),
    Entry("visual.attn_pool.probe", ("vision/head/probe",), PROBE),
    *joint_attention("visual.attn_pool.attn", "vision/head/attention"),
    *layer_norm("visual.attn_pool.layernorm", "vision/head/ln"),
    *linear("visual.attn_pool.mlp.c_fc", "vision/head/mlp/fc"),
    *linear("visual.attn_pool.mlp.c_proj", "vision/head/mlp/proj"),
    Entry("visual.proj", ("vision/proj/kernel",)),
    Entry(PROJ_BIAS, ("vision/proj/bias",)),
    *openai_text(""),
    Entry("logit_scale", ("logit_scale",)),
)
