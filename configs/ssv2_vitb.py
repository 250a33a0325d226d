"""DiST ViT-B/16, 8+16 frames, on Something-Something v2.

    python -m dist_jax.main --config=configs/ssv2_vitb.py --workdir=runs/ssv2_vitb

Make the records from the published annotations and the videos with

    python -m dist_jax.build_records --dataset ssv2 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 128 --output data/ssv2

and again with --split val --shards 16.

Published (not yet reproduced here): 68.7 top-1, 91.1 top-5 with 3 views. For 16+32 frames (70.2) add
--config.model.num_frames=32, for 32+64 frames (70.9) --config.model.num_frames=64; for ViT-L/14 at 32+64 frames (73.1)
also --config.backbone.weights=openai/clip-vit-large-patch14.
"""

import ml_collections

from dist_jax import config as settings


def get_config() -> ml_collections.ConfigDict:
    """Two pooling layers. A horizontal flip swaps the labels that name left and right."""
    config = settings.defaults()
    config.model.num_pooling_layers = 2
    config.augment.hflip_label_pairs = (86, 87, 93, 94, 166, 167)
    config.data.train = "data/ssv2/train@128"
    config.data.val = "data/ssv2/val@16"
    return config
