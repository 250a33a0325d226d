"""What CLIP, SigLIP and Perception Encoder share: two towers, the image tower a ViT with stacked blocks."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dist_jax.models.backbones.base import Backbone
from dist_jax.models.backbones.text_tower import TextConfig, TextTower
from dist_jax.models.backbones.vision_tower import VisionConfig, VisionTower


@dataclasses.dataclass(frozen=True)
class VitBackbone(Backbone):
    """A backbone with a ViT image tower and a text tower."""

    vision: VisionConfig
    text: TextConfig | None = None  # None: no text tower
    dtype: jnp.dtype = jnp.float32
    quantize: str = ""  # of the image tower, see VisionTower

    vision_config: ClassVar[type[VisionConfig]] = VisionConfig
    vision_tower: ClassVar[type[VisionTower]]
    text_tower: ClassVar[type[TextTower]]
    scalars: ClassVar[tuple[str, ...]] = ("logit_scale",)  # the other entries of the frozen tree, float32 []

    @property
    def num_layers(self) -> int:
        """L, blocks of the image tower."""
        return self.vision.num_layers

    @property
    def width(self) -> int:
        """D, width of the image tower."""
        return self.vision.width

    @property
    def embed_dim(self) -> int:
        """E, size of the joint embedding."""
        return self.vision.embed_dim

    @property
    def patch_size(self) -> int:
        """Height and width of a patch, pixels."""
        return self.vision.patch_size

    @property
    def resolution(self) -> int:
        """Height and width of a frame, pixels."""
        return self.vision.resolution

    def features(self, params: dict, frames: jax.Array, layers: Sequence[int], mesh: Mesh | None = None) -> jax.Array:
        """See `Backbone.features`."""
        backbone, params = self.first_layers(params, layers[-1] + 1)
        module = self.vision_tower(backbone.vision, self.dtype, self.quantize, mesh)
        return module.apply({"params": params["vision"]}, frames, tuple(layers), method="features")

    def text_embeddings(self, params: dict, tokens: jax.Array) -> jax.Array:
        """See `Backbone.text_embeddings`. Always computed in float32: the text tower runs only once."""
        return self.text_tower(self.text).apply({"params": params["text"]}, tokens)

    def first_layers(self, params: dict, num_layers: int) -> tuple[Self, dict]:
        """See `Backbone.first_layers`."""
        if num_layers == self.num_layers:
            return self, params
        blocks = jax.tree.map(lambda leaf: leaf[:num_layers], params["vision"]["blocks"])
        vision = dataclasses.replace(self.vision, num_layers=num_layers)
        return dataclasses.replace(self, vision=vision), params | {"vision": params["vision"] | {"blocks": blocks}}

    def param_shapes(self) -> dict:
        """The frozen tree in float32, without quantisation: ShapeDtypeStructs; allocates no arrays."""
        frames = jax.ShapeDtypeStruct((1, self.resolution, self.resolution, 3), jnp.float32)
        tree = {"vision": _param_shapes(self.vision_tower(self.vision), frames)}
        if self.text is not None:
            tokens = jax.ShapeDtypeStruct((1, self.text.context_length), jnp.int32)
            tree["text"] = _param_shapes(self.text_tower(self.text), tokens)
        return tree | {name: jax.ShapeDtypeStruct((), jnp.float32) for name in self.scalars}


def _param_shapes(tower: VisionTower | TextTower, inputs: jax.ShapeDtypeStruct) -> dict:
    return jax.eval_shape(tower.init, jax.random.key(0), inputs)["params"]
