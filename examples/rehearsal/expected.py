"""Lines that the stages of scripts/rehearsal.sh must print, from the construction of the data sets."""

from collections import Counter
from collections.abc import Sequence

from examples.rehearsal import actions
from examples.rehearsal.epic import Segment
from examples.rehearsal.kinetics import CLASS_LISTS, CLASSES, K400, K600, K700, MERGED, Lists, label_of


def texts(lists: Lists, videos_per_split: int, segments: Sequence[Segment]) -> dict[str, str]:
    """STAGE.txt -> lines, each a part of the output of the stage."""
    counts = lists.train_counts()
    num_train = sum(count["kept"] for count in counts.values())
    num_val = len({video for videos in lists.val.values() for video in videos})
    num_k400_val, num_k600_val = len(lists.val[K400]), len(lists.val[K600])
    num_ucf, num_hmdb = (actions.NUM_SPLITS * videos_per_split * len(x) for x in (actions.UCF101, actions.HMDB51))
    epic = Counter(segment.split for segment in segments)
    stages = {
        "records_k710_train": [
            f"kinetics710 train: {num_train:,} videos of {len(MERGED)} classes",
            *(f"  {name.removesuffix('_2020')}: {_counts(counts[name])}" for name in (K700, K600, K400)),
            *_records(num_train, missing=1),
        ],
        "records_k710_val": [f"kinetics710 val: {num_val:,} videos of {len(MERGED)} classes", *_records(num_val)],
        "records_k400_train": _records(len(lists.train[K400]), missing=1),
        "records_k400_val": _records(num_k400_val),
        "evaluate_k400": [f"{num_k400_val} videos, 9 views"],
        "records_ucf101": _records(num_ucf),
        "records_hmdb51": _records(num_hmdb),
        "zero_shot_ucf101": ["evaluating config.init_from=", f"{num_ucf} videos, 3 views", "| plain CLIP "],
        "zero_shot_hmdb51": [f"{num_hmdb} videos, 3 views", "| plain CLIP "],
        "records_k600": _records(num_k600_val),
        "zero_shot_k600": [f"{num_k600_val} videos, 3 views", "| plain CLIP ", *_dropped(lists)],
        "plain_clip_k400": [f"{num_k400_val} videos, 3 views"],
        **{f"records_epic_{split}": _records(number) for split, number in epic.items()},
        "evaluate_epic": [f"{epic['val']} videos, 3 views", "action_top1", "unseen_action_top1", "tail_action_top1"],
        "evaluate_epic_test": [f"{epic['test']} videos, 3 views: no labels, no metrics"],
        "challenge_epic": [f": the scores of {epic['test']} segments"],
        "labels_k710": MERGED,
        "labels_k400": sorted(CLASSES[K400]),
    }
    return {f"{stage}.txt": "\n".join(lines) + "\n" for stage, lines in stages.items()}


def _dropped(lists: Lists) -> list[str]:
    """The videos of Kinetics-600 whose class is not in a list."""
    labels = [label_of(K600, video.motion) for video in lists.val[K600]]
    dropped = {name: sum(label not in names for label in labels) for name, names in CLASS_LISTS.items()}
    return [f"{name}: {count} videos of other classes dropped" for name, count in dropped.items()]


def _counts(count: dict[str, int]) -> str:
    return ", ".join(f"{count[key]:,} {key.replace('_', ' ')}" for key in ("listed", "held_out", "duplicate", "kept"))


def _records(num_videos: int, missing: int = 0) -> list[str]:
    lines = [f": {num_videos - missing:,} videos, "]
    return lines + ([f"unreadable videos: {missing} of {num_videos}; "] if missing else [])
