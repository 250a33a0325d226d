"""TensorFlow's SavedModel, with jax2tf: the directory is the SavedModel.

The signature serving_default takes `video`. metadata.json and labels.txt are also assets. TensorFlow compiles the same
StableHLO program as that of jax.export with XLA.
"""

from pathlib import Path

import jax

from dist_jax.exporting.metadata import VIDEO
from dist_jax.exporting.program import ClipProgram

PLATFORMS = ("cpu", "cuda", "tpu")


def versions() -> dict[str, object]:
    """The version of TensorFlow, and of the calling convention of its operation XlaCallModule."""
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "calling_convention": jax.config.values["jax_export_calling_convention_version"],
    }


def write(program: ClipProgram, metadata: dict, directory: Path) -> None:
    """Writes the SavedModel. See `formats`."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    run = jax2tf.convert(
        program.run_batch,
        polymorphic_shapes=[None, "(B, ...)"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    module = tf.Module()
    module.params = {name: tf.Variable(value, trainable=False) for name, value in program.params.items()}
    module.assets = [tf.saved_model.Asset(str(file)) for file in sorted(directory.iterdir())]
    video = tf.TensorSpec((None, *program.clip.shape), program.clip.dtype, name=VIDEO)
    module.__call__ = tf.function(lambda video: run(module.params, video), autograph=False, input_signature=[video])
    tf.saved_model.save(module, directory, signatures=module.__call__.get_concrete_function())
