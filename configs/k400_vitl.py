"""DiST ViT-L/14, 32+64 frames, on Kinetics-400, initialised with the Kinetics-710 model.

    python -m dist_jax.main --config=configs/k400_vitl.py --workdir=runs/k400_vitl

Make the records from the published annotations and the videos with

    python -m dist_jax.build_records --dataset kinetics400 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 256 --output data/k400

and again with --split val --shards 16.

Published (not yet reproduced here): 89.6 top-1, 98.4 top-5 with 3 views. Without the Kinetics-710 model
(--config.init_from=""): 88.0 and 97.9.
"""

import ml_collections

from dist_jax import config as settings


def get_config() -> ml_collections.ConfigDict:
    """configs/k710_vitl.py on Kinetics-400, initialised with its parameters."""
    config = settings.defaults()
    config.backbone.weights = "openai/clip-vit-large-patch14"
    config.model.num_frames = 64
    config.init_from = "runs/k710_vitl"
    config.data.train = "data/k400/train@256"
    config.data.val = "data/k400/val@16"
    return config
