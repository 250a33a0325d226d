"""Stand-ins of Kinetics-400, -600 and -700: published file names, columns and overlaps; motions are the classes.

The classes overlap as those of the published sets: one has another name in Kinetics-400 (kinetics.RENAMED), one another
case in Kinetics-700, one is only in Kinetics-400 and -600. Of the videos,

- the first of each class are in the training lists of two sets (Kinetics-400 and -600, or -600 and -700);
- one of each class is a training video of Kinetics-400 and a validation video of Kinetics-700, and one the reverse;
- one of each class is in the validation lists of Kinetics-400 and -600;
- two training videos of Kinetics-600 are in a test list, one of them in the holdout list;
- one training video of Kinetics-400 does not exist.

Files of Kinetics-400 and -700 are trimmed, CLASS/ID_000004_000006.mp4. Those of Kinetics-600 are complete videos,
ID.mp4, with the segment from second 1 to 3.
"""

import base64
import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Sequence

from examples.rehearsal.clips import SECONDS, Clip, Part

CLASSES = {  # set -> class name -> motion
    "kinetics400": {
        "balloon blowing": "growing",
        "moving down": "moving down",
        "moving left": "moving left",
        "moving right": "moving right",
        "moving up": "moving up",
    },
    "kinetics600": {
        "inflating balloons": "growing",
        "moving down": "moving down",
        "moving left": "moving left",
        "moving right": "moving right",
        "moving up": "moving up",
        "shrinking": "shrinking",
    },
    "kinetics700_2020": {
        "inflating balloons": "growing",
        "moving left": "moving left",
        "moving right": "moving right",
        "Moving Up": "moving up",
        "shrinking": "shrinking",
    },
}
K400, K600, K700 = CLASSES
CLASS_LISTS = {  # in place of the three lists of 160 classes of the zero-shot protocol on Kinetics-600
    "classes1": ("inflating balloons", "moving down"),
    "classes2": ("moving left", "moving right"),
    "classes3": ("moving up", "shrinking"),
}
MERGED = ["Moving Up", "inflating balloons", "moving down", "moving left", "moving right", "shrinking"]
COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of videos of each class that are listed first in a set (K400, K600, K700)."""

    train: tuple[int, int, int]  # at least `shared` + 2 each
    val: tuple[int, int, int]  # at least 2 each
    shared: int  # training videos that the next set also lists


@dataclasses.dataclass(frozen=True)
class Video:
    """A YouTube video."""

    set_name: str  # the set that lists it first, which determines its file
    motion: str
    youtube_id: str
    start_s: int

    @property
    def clip(self) -> Clip:
        """Its file."""
        if self.set_name == K600:
            return Clip(f"{K600}/{self.youtube_id}.mp4", (Part(self.motion),), still_s=self.start_s)
        folder = label_of(self.set_name, self.motion).replace(" ", "_")
        times = f"{self.start_s:06d}_{self.start_s + SECONDS:06d}"
        return Clip(f"{self.set_name}/{folder}/{self.youtube_id}_{times}.mp4", (Part(self.motion),))


@dataclasses.dataclass(frozen=True)
class Lists:
    """The videos of the lists."""

    train: dict[str, list[Video]]  # by set
    val: dict[str, list[Video]]
    test: dict[str, list[Video]]  # without files, except for training videos
    holdout: list[Video]  # of Kinetics-600
    missing: Video  # training video of Kinetics-400 without a file

    @property
    def clips(self) -> list[Clip]:
        """All files, each once."""
        videos = [video for lists in (self.train, self.val) for videos in lists.values() for video in videos]
        return [video.clip for video in dict.fromkeys(videos) if video != self.missing]

    def train_counts(self) -> dict[str, dict[str, int]]:
        """Numbers of training videos by set, the newest set first: listed, held_out, duplicate, kept in the union."""
        held_out = {video for lists in (self.val, self.test) for videos in lists.values() for video in videos}
        held_out |= {*self.holdout}
        counts, seen = {}, set()
        for name in (K700, K600, K400):
            listed = set(self.train[name])
            kept = listed - held_out - seen
            num_held_out = len(listed & held_out)
            counts[name] = {
                "listed": len(listed),
                "held_out": num_held_out,
                "duplicate": len(listed) - num_held_out - len(kept),
                "kept": len(kept),
            }
            seen |= kept
        return counts


def make_lists(sizes: Sizes) -> Lists:
    """The lists of all sets, with the overlaps above."""
    names = list(CLASSES)
    own_train = {name: _videos(name, "train", count) for name, count in zip(names, sizes.train, strict=True)}
    own_val = {name: _videos(name, "val", count) for name, count in zip(names, sizes.val, strict=True)}
    train = {name: _flat(own_train[name].values()) for name in names}
    val = {name: _flat(own_val[name].values()) for name in names}
    test = {name: _flat(_videos(name, "test", 1).values()) for name in names}
    for first, second in ((K400, K600), (K600, K700)):
        train[second] += _of_classes(own_train[first], second, slice(0, sizes.shared))
    val[K700] += _of_classes(own_train[K400], K700, slice(sizes.shared, sizes.shared + 1))
    train[K700] += _of_classes(own_val[K400], K700, slice(0, 1))
    val[K600] += _of_classes(own_val[K400], K600, slice(1, 2))
    test[K400].append(own_train[K600]["moving left"][-1])
    return Lists(train, val, test, [own_train[K600]["moving right"][-1]], own_train[K400]["moving left"][-1])


def annotation_files(lists: Lists) -> dict[str, str]:
    """The published files: SET/NAME -> CSV text. Kinetics-600 has complete .txt lists and incomplete .csv copies."""
    texts = {}
    for name in CLASSES:
        is_600 = name == K600
        val_name = "val" if is_600 else "validate"
        rows = {"train": _rows(name, lists.train[name], "train"), val_name: _rows(name, lists.val[name], val_name)}
        for list_name, complete in rows.items():
            if is_600:
                texts[f"{name}/{list_name}.txt"] = _csv(COLUMNS, complete)
            texts[f"{name}/{list_name}.csv"] = _csv(COLUMNS, complete[:-1] if is_600 else complete)
        test = [row[1:] for row in _rows(name, lists.test[name], "test")]
        texts[f"{name}/test.csv"] = _csv(COLUMNS[1:], test)
    texts[f"{K600}/kinetics600_holdout_test.csv"] = _csv(("youtube_id",), [[v.youtube_id] for v in lists.holdout])
    return texts


def label_of(set_name: str, motion: str) -> str:
    """The class name of a motion in a set; the motion itself in unlabelled test lists that have other classes."""
    return {motion: label for label, motion in CLASSES[set_name].items()}.get(motion, motion)


def _videos(set_name: str, split: str, count: int) -> dict[str, list[Video]]:
    """`count` new videos of each class of a set, by motion."""
    return {
        motion: [_video(set_name, motion, f"{set_name}/{split}/{motion}/{number}", number) for number in range(count)]
        for motion in CLASSES[set_name].values()
    }


def _video(set_name: str, motion: str, name: str, number: int) -> Video:
    digest = hashlib.blake2b(name.encode(), digest_size=9).digest()
    youtube_id = base64.urlsafe_b64encode(digest).decode()[:11]
    return Video(set_name, motion, youtube_id, start_s=1 if set_name == K600 else 4 + number)


def _of_classes(videos: dict[str, list[Video]], set_name: str, selection: slice) -> list[Video]:
    """The selected videos of each motion that is a class of a set."""
    return _flat(videos[motion][selection] for motion in CLASSES[set_name].values() if motion in videos)


def _flat(lists: Iterable[Sequence[Video]]) -> list[Video]:
    return [video for videos in lists for video in videos]


def _rows(set_name: str, videos: Sequence[Video], split: str) -> list[list]:
    return [[label_of(set_name, v.motion), v.youtube_id, v.start_s, v.start_s + SECONDS, split] for v in videos]


def _csv(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()
