"""DiST on Perception Encoder Core L/14 at 336 pixels on Kinetics-400, 16+32 frames, or with an argument 8+16 frames.

    python -m dist_jax.main --config=configs/k400_pe_l.py --workdir=runs/k400_pe_l
    python -m dist_jax.main --config=configs/k400_pe_l.py:frames=16 --workdir=runs/k400_pe_l_16

The recipe is the published one for OpenAI's CLIP (configs/k400_vitb.py). It is not tuned for Perception Encoder. DiST
has not been published on Perception Encoder, and no accuracy is claimed.

Make the records as for configs/k400_vitb.py, with --short-side 384. Time and cost on a TPU slice, before it is rented:

    python -m dist_jax.plan --config=configs/k400_pe_l.py --topology=v5e-64

It estimates 4.4 hours, 283 chip-hours, evaluations included.
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"frames": (32, 16)}  # T


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """configs/k400_vitb.py with Perception Encoder as the frozen backbone."""
    config = settings.defaults()
    config.backbone.weights = "timm/PE-Core-L-14-336"
    config.model.num_frames = config_arguments.parse(argument, ARGUMENTS)["frames"]
    config.data.train = "data/k400/train@256"
    config.data.val = "data/k400/val@16"
    return config
