"""The program of an artefact: pixels of clips -> probabilities and embeddings.

The program of one clip has fixed shapes, so that no format depends on how the network treats the batch axis. A batch
is a loop over its clips: the many frames of one clip are enough work for a device at a time.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.distributed.sharding import path_name
from dist_jax.exporting.platforms import without_kernels
from dist_jax.inference.frame_store import Classifier
from dist_jax.models.layers import matmul_precision, unit
from dist_jax.models.networks import NO_NETWORK
from dist_jax.typing import PyTree

Arrays = Mapping[str, jax.Array | np.ndarray]  # by name


@dataclasses.dataclass(frozen=True)
class ClipProgram:
    """The computation of one clip."""

    params: dict[str, np.ndarray]  # by the names of model.safetensors, with "text_features"
    clip: jax.ShapeDtypeStruct  # pixels 0..255, uint8 [T, H, W, 3]
    run: Callable[[Arrays, jax.Array], Arrays]  # parameters and a clip -> "probabilities" [K], "embedding" [E], float32

    def run_batch(self, params: Arrays, video: jax.Array) -> Arrays:
        """Clips [B, T, H, W, 3], one after another -> "probabilities" float32 [B, K], "embedding" float32 [B, E].

        Has no Pallas kernels, so that one export can be for several platforms.
        """
        return jax.lax.map(partial(without_kernels(self.run), params), video)

    def output_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each output of one clip."""
        return jax.eval_shape(self.run, self.params, self.clip)


def make_program(classifier: Classifier) -> ClipProgram:
    """The program of a model with its classes. A network with its own classifier has no embedding.

    Args:
        classifier: from `Predictor.classifier`; the arrays may be on any device.
    """
    model = classifier.model
    tree: dict[str, PyTree] = {"dist": classifier.params, "clip": classifier.frozen}
    if classifier.text is not None:
        tree["text_features"] = classifier.text
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_name(path) for path, _ in leaves]

    def run(params: Arrays, clip: jax.Array) -> Arrays:
        with matmul_precision(model.dtype):
            return _outputs(classifier, jax.tree.unflatten(structure, [params[name] for name in names]), clip)

    size = model.backbone.resolution
    clip = jax.ShapeDtypeStruct((model.dist.num_frames, size, size, 3), jnp.uint8)
    # safetensors ignores the strides of transposed views, so the arrays must be contiguous.
    return ClipProgram(
        {name: np.asarray(leaf, order="C") for name, (_, leaf) in zip(names, leaves, strict=True)}, clip, run
    )


def _outputs(classifier: Classifier, tree: dict[str, PyTree], clip: jax.Array) -> Arrays:
    """Probabilities [K] and embedding [E] of one clip, from one pass of the backbone."""
    model, params, frozen, weight = classifier.model, tree["dist"], tree["clip"], classifier.zero_shot_weight
    probabilities = jax.nn.sigmoid if classifier.multi_label else jax.nn.softmax
    video = model.normalize(clip[None])  # [1, T, H, W, 3]
    if model.has_own_classes:
        return {"probabilities": probabilities(model.embed(params, frozen, video))[0]}
    # The embedding needs the network's blocks even if only plain CLIP classifies.
    features = model.features(frozen, video, model.mixed_layers(min(weight, 0.5)))
    frames = model.backbone.frame_embeddings(frozen, features[-1])  # [S, 1, E]
    if model.network_name == NO_NETWORK:
        embedding, weight = jnp.mean(unit(frames), axis=0), 1.0
    else:
        embedding = model.embed_features(params, frozen, features[: len(model.dist.layers)], video)  # [1, E]
    (label,) = model.label_names
    logits = model.mixed_logits_of_embeddings(
        frozen,
        {label: tree["text_features"]},
        embedding if weight < 1 else None,
        frames if weight > 0 else None,
        weight,
    )[label]
    return {"probabilities": probabilities(logits)[0], "embedding": unit(embedding)[0]}
