"""DiST ViT-B/16 on Something-Something v2, 8+16 frames, or with an argument 16+32 or 32+64 frames.

    python -m dist_jax.main --config=configs/ssv2_vitb.py --workdir=runs/ssv2_vitb
    python -m dist_jax.main --config=configs/ssv2_vitb.py:frames=32 --workdir=runs/ssv2_vitb_32

Make the records from the published annotations and the videos with

    python -m dist_jax.build_records --dataset ssv2 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 128 --output data/ssv2

and again with --split val --shards 16. Time and cost on a TPU slice, before it is rented:

    python -m dist_jax.plan --config=configs/ssv2_vitb.py --topology=v5e-64

Accuracies reported in the paper with 3 views (not yet reproduced here), and hours on a v5e-64 as this plan estimates
them, evaluations included:

    argument               frames   top-1   top-5   hours
    frames=16 (default)    8+16     68.7    91.1    0.2
    frames=32              16+32    70.2    92.0    0.4
    frames=64              32+64    70.9    92.1    0.8
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"frames": (16, 32, 64)}  # T


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Two pooling layers. A horizontal flip swaps the labels that name left and right."""
    config = settings.defaults()
    config.model.num_frames = config_arguments.parse(argument, ARGUMENTS)["frames"]
    config.model.num_pooling_layers = 2
    config.augment.hflip_label_pairs = (86, 87, 93, 94, 166, 167)
    config.data.train = "data/ssv2/train@128"
    config.data.val = "data/ssv2/val@16"
    return config
