"""DiST ViT-L/14, 32+64 frames, on Kinetics-710. Its parameters initialise configs/k400_vitl.py.

    python -m dist_jax.main --config=configs/k710_vitl.py --workdir=runs/k710_vitl

Make the records from the published annotations and the videos with

    python -m dist_jax.build_records --dataset kinetics710 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 1024 --output data/k710

and again with --split val --shards 32. Time and cost on a TPU slice, before it is rented:

    python -m dist_jax.plan --config=configs/k710_vitl.py --topology=v5e-64

It estimates 9.2 hours, 590 chip-hours, evaluations included.

The paper reports no accuracy on Kinetics-710.
"""

import ml_collections

from dist_jax import config as settings


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with ViT-L/14 and 64 frames."""
    config = settings.defaults()
    config.backbone.weights = "openai/clip-vit-large-patch14"
    config.model.num_frames = 64
    config.data.train = "data/k710/train@1024"
    config.data.val = "data/k710/val@32"
    return config
