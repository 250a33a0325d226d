"""Sizes of public data sets, by the folder of their records in configs/."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Number of videos and classes (of the label with the most classes)."""

    label: str
    train_videos: int
    val_videos: int
    num_classes: int


# Kinetics-400: the lists of mmaction2. Kinetics-710: the list of VideoMAE V2. Something-Something: its web page.
# EPIC-KITCHENS-100: its annotation files; action segments, noun classes.
DATASETS = {
    "k400": Dataset("Kinetics-400", 240_436, 19_796, 400),
    "k710": Dataset("Kinetics-710", 658_340, 66_803, 710),
    "ssv2": Dataset("Something-Something v2", 168_913, 24_777, 174),
    "epic100": Dataset("EPIC-KITCHENS-100", 67_217, 9_668, 300),
}


def find(path: str) -> Dataset | None:
    """The data set in whose folder a path is, e.g. "data/k710/train@1024"; None if it is none of DATASETS."""
    parts = re.split(r"[/\\]", path)
    return next((DATASETS[part] for part in parts if part in DATASETS), None)
