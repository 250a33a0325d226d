"""Zero-shot evaluation on UCF101, HMDB51 or Kinetics-600: a model classifies videos of classes it was not trained on.

    python -m dist_jax.main --config=configs/zero_shot.py:ucf101 --config.init_from=MODEL \\
        --workdir=runs/zero_shot_ucf101 --evaluate

MODEL is a training workdir, a model directory or a published .pyth file. The default is the run of
configs/k400_vitb.py or configs/k400_vitl.py. One pass evaluates three classifiers: the mean of DiST's and plain CLIP's
logits (the protocol of the paper), DiST, and plain CLIP. The table has the accuracy on each of three splits, its mean
and its standard deviation. For plain CLIP without a trained model, add --config.model.network=none and
--config.init_from="".

UCF101 and HMDB51 need records of the videos in the three test lists, and the published lists (in SPLITS):

    python -m dist_jax.build_records --dataset ucf101 --annotations SPLITS --videos VIDEOS --split test --shards 8 \\
        --output data/ucf101
    cp SPLITS/testlist0?.txt data/ucf101           # HMDB51: cp SPLITS/*_test_split?.txt data/hmdb51

Kinetics-600 needs records of its validation set, and three lists of 160 classes that are not in Kinetics-400, one class
name per line: data/k600/classes1.txt, classes2.txt and classes3.txt. Videos of other classes are dropped and counted.

Arguments: ucf101 (default), hmdb51 or k600; model=vitb (default) or vitl; frames=16 (default), 32 or 64, the frames of
a clip. --config.data.prompt_templates_file=FILE averages the text features over templates, e.g. "a video of {}".
"""

import ml_collections

from dist_jax import config as settings
from dist_jax import config_arguments

ARGUMENTS = {"dataset": ("ucf101", "hmdb51", "k600"), "model": ("vitb", "vitl"), "frames": (16, 32, 64)}
WEIGHTS = {"vitb": "openai/clip-vit-base-patch16", "vitl": "openai/clip-vit-large-patch14"}
VIDEO_LISTS = {
    "ucf101": "data/ucf101/testlist01.txt,data/ucf101/testlist02.txt,data/ucf101/testlist03.txt",
    "hmdb51": "data/hmdb51/*_test_split1.txt,data/hmdb51/*_test_split2.txt,data/hmdb51/*_test_split3.txt",
    "k600": "",
}
CLASS_LISTS = {"k600": "data/k600/classes1.txt,data/k600/classes2.txt,data/k600/classes3.txt"}
VAL = {"ucf101": "data/ucf101/test@8", "hmdb51": "data/hmdb51/test@8", "k600": "data/k600/val@16"}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The evaluation of a Kinetics-400 model on the classes of another data set."""
    arguments = config_arguments.parse(argument, ARGUMENTS)
    dataset = arguments["dataset"]
    config = settings.defaults()
    config.backbone.weights = WEIGHTS[arguments["model"]]
    config.model.num_frames = arguments["frames"]
    config.init_from = f"runs/k400_{arguments['model']}"
    config.data.val = VAL[dataset]
    config.data.class_names_file = f"{config.data.val.rpartition('/')[0]}/labels.txt"
    config.eval.zero_shot_weight = 0.5
    config.eval.video_lists = VIDEO_LISTS[dataset]
    config.eval.class_lists = CLASS_LISTS.get(dataset, "")
    return config
