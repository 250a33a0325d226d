"""Reads the published annotations of public data sets.

Missing videos are not an error: the build lists them in failed.csv.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from dist_jax.build_records import epic, kinetics
from dist_jax.build_records.annotation_files import find_file, read_json
from dist_jax.build_records.video_files import VideoFiles
from dist_jax.errors import UserError
from dist_jax.files import exists, is_folder, list_names, read_text
from dist_jax.video.class_folders import SkippedFile
from dist_jax.video.video_list import VideoSegment, check_labels


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Segments and class names of a split."""

    segments: list[VideoSegment]
    class_names: list[str]  # by class number; empty for EPIC-KITCHENS, which has verbs and nouns
    extra_files: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> text, for the output folder
    summary: str = ""  # printed by the command
    skipped: list[SkippedFile] | None = None  # the files that are no videos; only if each class is a folder


Reader = Callable[[str, VideoFiles, str], Annotations]  # folder of the annotations, videos, split


def read(
    dataset: str,
    annotations: str,
    videos: str,
    split: str,
    trimmed: bool = False,
    class_names: Sequence[str] | None = None,
) -> Annotations:
    """Reads a split of a public data set.

    Args:
        dataset: one of `DATASETS`.
        annotations: folder of the published files. Kinetics-400, -600 and -700: also one CSV file.
        videos: folder of the videos.
        split: the data set's name of the split: train, val; Kinetics and EPIC-KITCHENS: also test; UCF101 and HMDB51:
          train1, test1 (to 3).
        trimmed: Kinetics only: ID.mp4 is the segment, not the full YouTube video.
        class_names: class names by class number. None: the order of the data set, or else alphabetical order.

    Raises:
        UserError: a file is missing or has another format, the split is empty, or a label is not in `class_names`.
    """
    if not exists(annotations):
        raise UserError(f"{annotations}: does not exist; set --annotations to the published files of {dataset}")
    if dataset not in kinetics.SETS and not is_folder(annotations):
        raise UserError(
            f"{annotations}: is a file; set --annotations to the folder of the published files of {dataset}"
        )
    files = VideoFiles(videos)
    if dataset == "kinetics710":
        result = _kinetics710(annotations, files, split, trimmed, class_names)
    elif dataset in kinetics.SETS:
        result = _kinetics(annotations, files, split, trimmed)
    else:
        result = _READERS[dataset](annotations, files, split)
    if not result.segments:
        raise UserError(f"{annotations}: split {split} of {dataset} contains no videos")
    if class_names is not None:
        result = dataclasses.replace(result, class_names=list(class_names))
    check_labels(result.segments, result.class_names)
    return result


def _kinetics(annotations: str, files: VideoFiles, split: str, trimmed: bool) -> Annotations:
    _check_split(split, tuple(kinetics.SPLITS))
    if is_folder(annotations):
        videos = kinetics.read_videos(kinetics.list_path(annotations, split))
    else:
        videos = kinetics.read_videos(annotations, split)
    return Annotations(kinetics.to_segments(videos, files, trimmed), sorted({video.label for video in videos}))


def _kinetics710(
    annotations: str, files: VideoFiles, split: str, trimmed: bool, class_names: Sequence[str] | None
) -> Annotations:
    _check_split(split, ("train", "val"))
    folders = {name: _set_folder(annotations, name.removeprefix("kinetics")) for name in kinetics.SETS}
    sets = {name: kinetics.read_videos(kinetics.list_path(folder, split)) for name, folder in folders.items()}
    held_out_ids = set()
    if split == "train":
        paths = [path for folder in folders.values() for path in kinetics.held_out_paths(folder)]
        held_out_ids = set().union(*map(kinetics.read_ids, paths))
    merged = kinetics.merge(sets, held_out_ids)
    names = sorted({name for class_map in merged.class_maps.values() for name in class_map.values()})
    class_names = list(class_names or names)
    check_labels([VideoSegment("kinetics710", name) for name in names], class_names)
    tables = {
        f"map_{name}.csv": kinetics.class_map_csv(class_map, class_names)
        for name, class_map in merged.class_maps.items()
    }
    counts = {"classes": len(names), "videos": len(merged.videos), "sets": merged.counts}
    title = f"kinetics710 {split}: {len(merged.videos):,} videos of {len(names)} classes (published lists: 710)"
    return Annotations(
        kinetics.to_segments(merged.videos, files, trimmed),
        class_names,
        {**tables, f"kinetics710_{split}_counts.json": json.dumps(counts, indent=1) + "\n"},
        "\n".join([title, *(f"  {name}: {_format_counts(count)}" for name, count in merged.counts.items())]),
    )


def _ssv2(annotations: str, files: VideoFiles, split: str) -> Annotations:
    _check_split(split, ("train", "val"))
    class_numbers = read_json(find_file(annotations, r".*labels\.json"))
    if not _numbers_all_classes(class_numbers):
        raise UserError(f"{annotations}: labels.json must be an object {{template: number}} with the numbers from 0")
    path = find_file(annotations, {"train": r".*train\.json", "val": r".*validation\.json"}[split])
    segments = []
    for entry in read_json(path):
        try:
            label, video_id, caption = entry["template"], str(entry["id"]), entry.get("label")
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: an entry has no id or template: {entry}") from error
        # labels.json has no brackets: "Holding [something] next to [something]".
        label = re.sub(r"[\[\]]", "", label)
        if label not in class_numbers:
            raise UserError(f"{path}: the template {label!r} of video {video_id} is not in labels.json")
        segments.append(VideoSegment(files.find(video_id) or f"{video_id}.webm", label, caption=caption, key=video_id))
    return Annotations(segments, sorted(class_numbers, key=lambda label: int(class_numbers[label])))


def _numbers_all_classes(class_numbers: Any) -> bool:
    """Whether the value is a dict whose values are the numbers from 0, as text or integers."""
    if not isinstance(class_numbers, dict):
        return False
    return {*map(str, class_numbers.values())} == {*map(str, range(len(class_numbers)))}


def _epic100(annotations: str, files: VideoFiles, split: str) -> Annotations:
    _check_split(split, tuple(epic.FILES))
    if split == "test":  # without labels
        return Annotations(epic.read_segments(annotations, files, split, (), ()), [])
    verbs, nouns = epic.class_names(annotations, "verb"), epic.class_names(annotations, "noun")
    names = {"verbs.txt": verbs, "nouns.txt": nouns}
    return Annotations(
        epic.read_segments(annotations, files, split, verbs, nouns),
        [],
        {name: "\n".join(lines) + "\n" for name, lines in names.items()},
    )


def _of_three_splits(read_split: Reader) -> Reader:
    """The reader of a data set with three official splits. The splits train and test are the unions of the three."""

    def read_union(annotations: str, files: VideoFiles, split: str) -> Annotations:
        if split not in ("train", "test"):
            return read_split(annotations, files, split)
        parts = [read_split(annotations, files, f"{split}{number}") for number in (1, 2, 3)]
        segments = {segment.key: segment for part in parts for segment in part.segments}  # each video once
        return dataclasses.replace(parts[0], segments=list(segments.values()))

    return read_union


def _ucf101(annotations: str, files: VideoFiles, split: str) -> Annotations:
    kind, number = _official_split(split)
    path = find_file(annotations, rf"{kind}list0?{number}\.txt")
    rows = [line.split() for line in read_text(find_file(annotations, r"classInd\.txt")).splitlines() if line.strip()]
    if [row[0] for row in rows] != [str(i + 1) for i in range(len(rows))] or {*map(len, rows)} - {2}:
        raise UserError(f"{annotations}: classInd.txt must have one `NUMBER NAME` per line, with the numbers from 1")
    class_names = {name: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for _, name in rows}  # TaiChi -> Tai Chi
    segments = []
    for line, text in enumerate(read_text(path).splitlines(), 1):
        listed_path = text.split(" ")[0].strip()
        if not listed_path:
            continue
        folder = listed_path.partition("/")[0]
        if folder not in class_names:
            raise UserError(f"{path}, line {line}: the folder of {listed_path!r} is not a class in classInd.txt")
        file = files.find(os.path.splitext(listed_path)[0]) or listed_path
        segments.append(VideoSegment(file, class_names[folder], key=listed_path))
    return Annotations(segments, list(class_names.values()))


def _hmdb51(annotations: str, files: VideoFiles, split: str) -> Annotations:
    kind, number = _official_split(split)
    split_code = {"train": "1", "test": "2"}[kind]  # 0: the video is in neither
    suffix = f"_test_split{number}.txt"
    names = [name for name in list_names(annotations) if name.endswith(suffix)]
    if not names:
        raise UserError(f"{annotations}: no file CLASS{suffix}")
    segments, class_names = [], []
    for name in names:
        folder = name.removesuffix(suffix)
        class_names.append(folder.replace("_", " "))
        for line, text in enumerate(read_text(os.path.join(annotations, name)).splitlines(), 1):
            words = text.split()
            if words and (len(words) != 2 or words[1] not in "012"):
                raise UserError(f"{annotations}/{name}, line {line}: {text!r} must be `FILE 0`, `FILE 1` or `FILE 2`")
            if words and words[1] == split_code:
                listed_path = f"{folder}/{words[0]}"
                file = files.find(os.path.splitext(listed_path)[0]) or listed_path
                segments.append(VideoSegment(file, class_names[-1], key=listed_path))
    return Annotations(segments, class_names)


_READERS: dict[str, Reader] = {
    "ssv2": _ssv2,
    "epic100": _epic100,
    "ucf101": _of_three_splits(_ucf101),
    "hmdb51": _of_three_splits(_hmdb51),
}
DATASETS = (*kinetics.SETS, "kinetics710", *_READERS)


def _check_split(split: str, splits: Sequence[str]) -> None:
    if split not in splits:
        raise UserError(f"--split {split!r}: expected {' or '.join(splits)}")


def _official_split(split: str) -> tuple[str, str]:
    match = re.fullmatch(r"(train|test)0?([123])", split)
    if not match:
        raise UserError(
            f"--split {split!r}: expected train1, train2, train3, test1, test2 or test3 (official splits), or train or "
            "test (their unions)"
        )
    return match[1], match[2]


def _set_folder(annotations: str, number: str) -> str:
    """The subfolder of one Kinetics set, e.g. kinetics400, k600 or kinetics700_2020."""
    names = list_names(annotations)
    matches = [name for name in names if number in name and is_folder(os.path.join(annotations, name))]
    if len(matches) != 1:
        raise UserError(
            f"{annotations}: expected one folder with {number} in its name, for Kinetics-{number}; it has "
            f"{', '.join(names) or 'none'}"
        )
    return os.path.join(annotations, matches[0])


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items())
