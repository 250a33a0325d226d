"""DiST ViT-L/14, 32+64 frames, on Kinetics-400, initialised with the Kinetics-710 model or randomly.

    python -m dist_jax.main --config=configs/k400_vitl.py --workdir=runs/k400_vitl
    python -m dist_jax.main --config=configs/k400_vitl.py:init=random --workdir=runs/k400_vitl_random

The first command needs the run of configs/k710_vitl.py in runs/k710_vitl. For another folder or the published weights,
add --config.init_from=PATH.

Make the records from the published annotations and the videos with

    python -m dist_jax.build_records --dataset kinetics400 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 256 --output data/k400

and again with --split val --shards 16. Time and cost on a TPU slice, before it is rented:

    python -m dist_jax.plan --config=configs/k400_vitl.py --topology=v5e-64

It estimates 3.3 hours, 209 chip-hours, evaluations included.

Reported in the paper with 3 views (not yet reproduced here):

    argument               initial DiST parameters   top-1   top-5
    init=k710 (default)    Kinetics-710              89.6    98.4
    init=random            random                    88.0    97.9
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"init": ("k710", "random")}
INIT_FROM = {"k710": "runs/k710_vitl", "random": ""}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """configs/k710_vitl.py on Kinetics-400. By default, it starts from the parameters of that run."""
    config = settings.defaults()
    config.backbone.weights = "openai/clip-vit-large-patch14"
    config.model.num_frames = 64
    config.init_from = INIT_FROM[config_arguments.parse(argument, ARGUMENTS)["init"]]
    config.data.train = "data/k400/train@256"
    config.data.val = "data/k400/val@16"
    return config
