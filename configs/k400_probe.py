"""Probes on Kinetics-400: a linear or an attentive classifier on frozen CLIP, to compare with DiST.

    python -m dist_jax.main --config=configs/k400_probe.py:network=attentive_probe --workdir=runs/k400_attentive
    python -m dist_jax.main --config=configs/k400_probe.py:network=linear_probe,model=vitl --workdir=runs/k400_linear_l

The records are those of configs/k400_vitb.py.

Arguments: network=linear_probe (default) or attentive_probe; model=vitb (default) or vitl.

The DiST paper has no probes. The recipe is that of V-JEPA's frozen evaluation on Kinetics-400 (arXiv 2404.08471,
appendix on frozen evaluation, and its released configuration vith16_k400_16x8x3): 20 epochs, 256 clips per step, AdamW
with weight decay 0.01, learning rate 1e-3 without warm-up, a cosine to 0, gradient norm at most 1, plain cross-entropy:
no Mixup, CutMix or label smoothing. Crops are 8 to 100 % of the frame's area, without flips; its random erasing and
RandAugment are off here. The linear probe uses the same recipe; no setting is tuned for CLIP. Clips, views and
resolution are those of DiST (8 frames of CLIP from 16, 3 views), so that accuracies can be compared with
configs/k400_vitb.py at 8+16 frames.
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"network": ("linear_probe", "attentive_probe"), "model": ("vitb", "vitl")}
WEIGHTS = {"vitb": "openai/clip-vit-base-patch16", "vitl": "openai/clip-vit-large-patch14"}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """A probe with V-JEPA's recipe on the records and clips of DiST."""
    arguments = config_arguments.parse(argument, ARGUMENTS)
    config = settings.defaults()
    config.backbone.weights = WEIGHTS[arguments["model"]]
    config.model.network = arguments["network"]
    config.data.train = "data/k400/train@256"
    config.data.val = "data/k400/val@16"
    config.epochs = 20.0
    config.augment.crop_scale = (0.08, 1.0)
    config.augment.hflip_prob = 0.0
    config.augment.grayscale_prob = 0.0
    config.mix.mixup_alpha = 0.0
    config.mix.cutmix_alpha = 0.0
    config.mix.label_smoothing = 0.0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.01
    config.optimizer.grad_clip_norm = 1.0
    return config
