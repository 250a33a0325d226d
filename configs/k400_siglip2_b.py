"""DiST on SigLIP 2 B/16 on Kinetics-400, 8+16 frames, or with an argument 16+32 or 32+64 frames.

    python -m dist_jax.main --config=configs/k400_siglip2_b.py --workdir=runs/k400_siglip2_b
    python -m dist_jax.main --config=configs/k400_siglip2_b.py:frames=32 --workdir=runs/k400_siglip2_b_32

The recipe is the published one for OpenAI's CLIP B/16 (configs/k400_vitb.py). It is not tuned for SigLIP 2. DiST has
not been published on SigLIP 2, and no accuracy is claimed.

Make the records as for configs/k400_vitb.py. Time and cost on a TPU slice, before it is rented:

    python -m dist_jax.plan --config=configs/k400_siglip2_b.py --topology=v5e-64

It estimates 0.3 hours, 20 chip-hours, evaluations included.
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"frames": (16, 32, 64)}  # T


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """configs/k400_vitb.py with SigLIP 2 as the frozen backbone."""
    config = settings.defaults()
    config.backbone.weights = "google/siglip2-base-patch16-224"
    config.model.num_frames = config_arguments.parse(argument, ARGUMENTS)["frames"]
    config.data.train = "data/k400/train@256"
    config.data.val = "data/k400/val@16"
    return config
