"""DiST on EPIC-KITCHENS-100: one network with a classifier for 97 verbs and one for 300 nouns.

    python -m dist_jax.main --config=configs/epic100.py --workdir=runs/epic100_vitb
    python -m dist_jax.main --config=configs/epic100.py:model=vitl --workdir=runs/epic100_vitl

Make the records from the published annotations and the videos with

    python -m dist_jax.build_records --dataset epic100 --annotations ANNOTATIONS --videos VIDEOS \\
        --split train --shards 128 --output data/epic100

and again with --split val --shards 16. Evaluate with unseen participants and tail classes, and write the file for the
challenge (records of --split test have no labels), with

    python -m dist_jax.main --config=configs/epic100.py --workdir=runs/epic100_vitb --evaluate \\
        --config.eval.epic_annotations=ANNOTATIONS
    python -m dist_jax.main --config=configs/epic100.py --workdir=runs/epic100_vitb --evaluate --results=test \\
        --config.data.val=data/epic100/test@16 --config.eval.has_labels=False
    python -m dist_jax.epic --scores runs/epic100_vitb/results/test_scores.npz --output test.zip \\
        --annotations ANNOTATIONS/EPIC_100_test_timestamps.csv --sls-pt 2 --sls-tl 3 --sls-td 3

For a run that learns only verbs or nouns, add --config.data.label_key=verb --config.checkpoint.best_metric=top1.

Arguments: model=vitb (default) or vitl; frames=16, 32 or 64, the frames of a clip (default: 32).
Time and cost on a TPU slice, before it is rented:

    python -m dist_jax.plan --config=configs/epic100.py --topology=v5e-64

It estimates 0.2 hours (11 chip-hours) for vitb and
0.5 hours (34 chip-hours) for vitl, with 32 frames, evaluations included.

The published code contains no EPIC-KITCHENS-100 model. The recipe is that of Kinetics, initialised from the run of
configs/k400_vitb.py or configs/k400_vitl.py, and not tuned.
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"model": ("vitb", "vitl"), "frames": (32, 16, 64)}
WEIGHTS = {"vitb": "openai/clip-vit-base-patch16", "vitl": "openai/clip-vit-large-patch14"}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Two labels. No verb or noun depends on the side, so that a flip changes no label."""
    arguments = config_arguments.parse(argument, ARGUMENTS)
    config = settings.defaults()
    config.backbone.weights = WEIGHTS[arguments["model"]]
    config.model.num_frames = arguments["frames"]
    config.init_from = f"runs/k400_{arguments['model']}"
    config.data.label_key = "verb,noun"
    config.data.train = "data/epic100/train@128"
    config.data.val = "data/epic100/val@16"
    config.checkpoint.best_metric = "action_top1"
    return config
