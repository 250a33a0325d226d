"""Fine-tuning on your own classes, starting from a trained DiST model.

    python -m dist_jax.main --config=configs/finetune.py --config.init_from=CHECKPOINT --workdir=runs/mine
    python -m dist_jax.main --config=configs/finetune.py:model=vitl,frames=32 --config.init_from=CHECKPOINT \\
        --workdir=runs/mine

CHECKPOINT is a training workdir, a model directory or a published .pyth file. It may have another number of frames and
other classes: the classes are text, and the network has no parameters for them. The default is the workdir of
configs/k400_vitb.py or configs/k400_vitl.py. For a model trained on Something-Something v2, add
--config.model.num_pooling_layers=2. Run it with the CLIP of its training (default: OpenAI's ViT-B/16 or ViT-L/14).

Make the records from a list with one `path label` per line:

    python -m dist_jax.build_records --videos VIDEOS --list train.txt --output records --name train
    python -m dist_jax.build_records --videos VIDEOS --list val.txt --output records --name val \\
        --labels records/labels.txt

If a horizontal flip changes a class (left, right), set --config.augment.hflip_label_pairs or
--config.augment.hflip_prob=0.

Arguments: model=vitb (default) or vitl; frames=16 (default), 32 or 64, the frames of a clip.

This is not a published recipe, and it is not tuned: 20 epochs with 32 clips per step, and the published learning rate
for 256 clips scaled by 32 / 256.
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"model": ("vitb", "vitl"), "frames": (16, 32, 64)}
WEIGHTS = {"vitb": "openai/clip-vit-base-patch16", "vitl": "openai/clip-vit-large-patch14"}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """A small batch for one GPU, a low learning rate, a short warm-up."""
    arguments = config_arguments.parse(argument, ARGUMENTS)
    config = settings.defaults()
    config.backbone.weights = WEIGHTS[arguments["model"]]
    config.model.num_frames = arguments["frames"]
    config.init_from = f"runs/k400_{arguments['model']}"
    config.data.train = "records/train"
    config.data.val = "records/val"
    config.batch_size = 32
    config.epochs = 20.0
    config.optimizer.learning_rate = 4e-5
    config.optimizer.warmup_epochs = 2.0
    return config
