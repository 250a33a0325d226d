"""Tables of tensor names for the published formats of CLIP's towers; `clip_configs` has their sizes.

Our tree: {"vision": parameters of ClipVision, "text": parameters of ClipText, "logit_scale"}; blocks are stacked
[L, ...].
"""

import re
from collections.abc import Iterable

from dist_jax.weights.table import (
    FROM_HEADS,
    HEADS_BIAS,
    INTO_HEADS,
    LINEAR,
    Entry,
    Shapes,
    Table,
    axes,
    joint_attention,
    layer_norm,
    linear,
    only,
)

PATCHES = axes(2, 3, 1, 0)  # [out, in, height, width] -> [height, width, in, out]
PROBE = axes(1, 2, ones=(0,))  # [1, 1, D] -> [1, D]


def openai_blocks(name: str, path: str) -> Table:
    """Rows of the blocks of a tower, with OpenAI's names."""
    return (
        *joint_attention(f"{name}.attn", f"{path}/attention"),
        *layer_norm(f"{name}.ln_1", f"{path}/ln_1"),
        *linear(f"{name}.mlp.c_fc", f"{path}/mlp/fc"),
        *linear(f"{name}.mlp.c_proj", f"{path}/mlp/proj"),
        *layer_norm(f"{name}.ln_2", f"{path}/ln_2"),
    )


def huggingface_blocks(name: str, path: str) -> Table:
    """Rows of the blocks of a tower, with Hugging Face's names."""
    attention = [
        entry
        for part, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))
        for entry in (
            Entry(f"{name}.self_attn.{part}.weight", (f"{path}/attention/{ours}/kernel",), INTO_HEADS),
            Entry(f"{name}.self_attn.{part}.bias", (f"{path}/attention/{ours}/bias",), HEADS_BIAS),
        )
    ]
    return (
        *attention,
        *linear(f"{name}.self_attn.out_proj", f"{path}/attention/out", FROM_HEADS),
        *layer_norm(f"{name}.layer_norm1", f"{path}/ln_1"),
        *linear(f"{name}.mlp.fc1", f"{path}/mlp/fc"),
        *linear(f"{name}.mlp.fc2", f"{path}/mlp/proj"),
        *layer_norm(f"{name}.layer_norm2", f"{path}/ln_2"),
    )


def openai_text(prefix: str) -> Table:
    """Rows of CLIP's text tower with OpenAI's names; `prefix` is the first part of each name."""
    return (
        Entry(f"{prefix}positional_embedding", ("text/positions",)),
        Entry(f"{prefix}text_projection", ("text/proj",)),
        Entry(f"{prefix}token_embedding.weight", ("text/token_embedding",)),
        *openai_blocks(f"{prefix}transformer.resblocks.{{}}", "text/blocks"),
        *layer_norm(f"{prefix}ln_final", "text/ln_final"),
    )


OPENAI: Table = (
    Entry("visual.class_embedding", ("vision/class_token",)),
    Entry("visual.positional_embedding", ("vision/positions",)),
    Entry("visual.proj", ("vision/proj",)),
    Entry("visual.conv1.weight", ("vision/patch_embedding/kernel",), PATCHES),
    *layer_norm("visual.ln_pre", "vision/ln_pre"),
    *openai_blocks("visual.transformer.resblocks.{}", "vision/blocks"),
    *layer_norm("visual.ln_post", "vision/ln_post"),
    *openai_text(""),
    Entry("logit_scale", ("logit_scale",)),
)

HUGGINGFACE: Table = (
    Entry("vision_model.embeddings.class_embedding", ("vision/class_token",)),
    Entry("vision_model.embeddings.position_embedding.weight", ("vision/positions",)),
    Entry("visual_projection.weight", ("vision/proj",), LINEAR),
    Entry("vision_model.embeddings.patch_embedding.weight", ("vision/patch_embedding/kernel",), PATCHES),
    *layer_norm("vision_model.pre_layrnorm", "vision/ln_pre"),  # spelled like this in the files
    *huggingface_blocks("vision_model.encoder.layers.{}", "vision/blocks"),
    *layer_norm("vision_model.post_layernorm", "vision/ln_post"),
    Entry("text_model.embeddings.position_embedding.weight", ("text/positions",)),
    Entry("text_projection.weight", ("text/proj",), LINEAR),
    Entry("text_model.embeddings.token_embedding.weight", ("text/token_embedding",)),
    *huggingface_blocks("text_model.encoder.layers.{}", "text/blocks"),
    *layer_norm("text_model.final_layer_norm", "text/ln_final"),
    Entry("logit_scale", ("logit_scale",)),
)

# Entries of files that are not parameters: sizes, position numbers, the causal mask.
_BUFFERS = re.compile(
    r"input_resolution|context_length|vocab_size|(transformer\.resblocks\.\d+\.)?attn_mask|"
    r"(text|vision)_model\.embeddings\.position_ids"
)


def buffers(names: Iterable[str]) -> list[str]:
    """The names that are not parameters and hold no additional information."""
    return [name for name in names if _BUFFERS.fullmatch(name)]


def has_text(table: Table, shapes: Shapes) -> bool:
    """True if any tensor of the text tower exists in a file with these shapes."""
    names = [entry.name.format(0) for entry in only(table, ["text"])]
    return any(name in shapes for name in names)
