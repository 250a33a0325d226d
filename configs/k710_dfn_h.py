"""DiST on DFN5B's CLIP H/14, 32+64 frames, on Kinetics-710. Its parameters can initialise a training on Kinetics-400.

    python -m dist_jax.main --config=configs/k710_dfn_h.py --workdir=runs/k710_dfn_h

The recipe is the published one for OpenAI's CLIP L/14 (configs/k710_vitl.py). It is not tuned for DFN. DiST has not
been published on DFN, and no accuracy is claimed.

Make the records as for configs/k710_vitl.py. Time and cost on a TPU slice, before it is rented:

    python -m dist_jax.plan --config=configs/k710_dfn_h.py --topology=v5e-64

It estimates 19.5 hours, 1,247 chip-hours, evaluations included.
"""

import ml_collections

from dist_jax import config as settings


def get_config() -> ml_collections.ConfigDict:
    """configs/k710_vitl.py with DFN5B's CLIP H/14 as the frozen backbone."""
    config = settings.defaults()
    config.backbone.weights = "apple/DFN5B-CLIP-ViT-H-14"
    config.model.num_frames = 64
    config.data.train = "data/k710/train@1024"
    config.data.val = "data/k710/val@32"
    return config
