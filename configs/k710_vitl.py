"""DiST ViT-L/14, 32+64 frames, on Kinetics-710: what K400 is then started from (configs/k400_vitl.py).

    python -m dist_jax.main --config=configs/k710_vitl.py --workdir=runs/k710_vitl

Its records are made from the published annotations and the videos by

    python -m dist_jax.build_records --dataset kinetics710 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 1024 --output data/k710

and the same with --split val --shards 32.

The paper gives no accuracy on K710 itself. scripts/estimate_cost.py tells what this takes on which machines.
"""

import ml_collections

from dist_jax import config as settings


def get_config() -> ml_collections.ConfigDict:
    """The recipe of the defaults with the large backbone and four times the frames."""
    config = settings.defaults()
    config.backbone.weights = "openai/clip-vit-large-patch14"
    config.model.num_frames = 64
    config.model.remat = "layers"  # the DiST layers' residuals take several times the memory of the features
    config.data.train = "data/k710/train@1024"
    config.data.val = "data/k710/val@32"
    return config
