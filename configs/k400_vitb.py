"""DiST ViT-B/16, 8+16 frames, on Kinetics-400.

    python -m dist_jax.main --config=configs/k400_vitb.py --workdir=runs/k400_vitb

Make the records from the published annotations and the videos with

    python -m dist_jax.build_records --dataset kinetics400 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 256 --output data/k400

and again with --split val --shards 16.

Published (not yet reproduced here): 83.6 top-1, 96.3 top-5 with 3 views. For 16+32 frames (84.4) add
--config.model.num_frames=32, for 32+64 frames (85.0) --config.model.num_frames=64.
"""

import ml_collections

from dist_jax import config as settings


def get_config() -> ml_collections.ConfigDict:
    """The defaults with Kinetics-400 records."""
    config = settings.defaults()
    config.data.train = "data/k400/train@256"
    config.data.val = "data/k400/val@16"
    return config
