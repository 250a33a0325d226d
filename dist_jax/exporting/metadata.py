"""What the user of an artefact must know: classes, shapes, preprocessing, origin. Every format carries it as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

import dist_jax
from dist_jax.exporting.program import ClipProgram
from dist_jax.inference.frame_store import Classifier
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.video_classifier import decoded_short_side

VIDEO = "video"  # name of the input


def describe(
    model: Predictor, classifier: Classifier, program: ClipProgram, class_names: Sequence[str]
) -> dict[str, Any]:
    """The content of metadata.json, without the format and the versions of its library.

    Args:
        model: the exported model.
        classifier: its part that classifies `class_names`.
        program: of `classifier`.
        class_names: K names, in the order of the probabilities.
    """
    return {
        "input": {"name": VIDEO, **_array(program.clip), "values": "RGB pixels, 0 to 255"},
        "outputs": {name: _array(shape) for name, shape in program.output_shapes().items()},
        "activation": "sigmoid" if classifier.multi_label else "softmax",
        "class_names": list(class_names),
        "preprocessing": _preprocessing(model),
        "model": {
            "network": classifier.model.network_name,
            "fingerprint": model.fingerprint,
            "dtype": classifier.model.dtype.name,
            "zero_shot_weight": classifier.zero_shot_weight,
        },
        "versions": {"dist_jax": dist_jax.__version__, "jax": jax.__version__},
    }


def _array(shape: jax.ShapeDtypeStruct) -> dict[str, Any]:
    return {"dtype": shape.dtype.name, "shape": ["B", *shape.shape]}


def _preprocessing(model: Predictor) -> dict[str, Any]:
    """How clips are made from a video file, in the order of the steps. docs/export.md describes the entries."""
    protocol = dataclasses.asdict(model.eval_protocol)
    return {
        "num_frames": model.num_frames,
        "sampling": protocol["sampling"],
        "stride": protocol["stride"] if protocol["sampling"] == "dense" else None,
        "num_views": protocol["num_views"],
        "decoded_short_side": decoded_short_side(model.resolution),
        "short_side": model.resolution,
        "crop_size": model.resolution,
        "num_crops": protocol["num_crops"],
        "normalization": "in the model",
        "average": "mean of the probabilities of all views and crops",
    }
