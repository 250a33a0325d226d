"""The annotations of public data sets, in the form in which they were published.

Each reader takes the annotations' place, the files of the videos' folder and a split, and gives `Annotations`. A video
that is not there is left to the builder, which lists it in failed.csv.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence

import tensorflow as tf

from dist_jax.build_records import kinetics
from dist_jax.build_records.video_files import VideoFiles
from dist_jax.errors import UserError
from dist_jax.files import read_text
from dist_jax.video.video_list import VIDEO_SUFFIXES, VideoSegment, check_labels, csv_rows, parse_seconds


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The clips of a split, and the names that its labels are numbered by."""

    clips: list[VideoSegment]
    labels: list[str]  # in the order of their numbers; empty: verbs and nouns only
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> text, to stand beside the shards
    note: str = ""  # what the user should know


def read(
    dataset: str,
    annotations: str,
    videos: str,
    split: str,
    trimmed: bool = False,
    labels: Sequence[str] | None = None,
) -> Annotations:
    """The clips of a split of a published data set.

    Args:
        dataset: one of `DATASETS`.
        annotations: folder of the published files; of Kinetics 400, 600 and 700 also a single CSV file.
        videos: folder of the videos.
        split: as the data set calls it: train, val; train1 and test1 to 3 (UCF101, HMDB51).
        trimmed: of Kinetics: ID.mp4 is the clip, not the whole YouTube video.
        labels: class names in the order of their numbers; None: the data set's own order, else the alphabet's.

    Raises:
        UserError: A file is not there or not in the published form, the split is empty, or a class is not among
            `labels`.
    """
    if not tf.io.gfile.exists(annotations):
        raise UserError(f"{annotations}: is not there; --annotations names the published files of {dataset}")
    if dataset not in kinetics.SETS and not tf.io.gfile.isdir(annotations):
        raise UserError(f"{annotations}: is a file; --annotations names the folder of the published files of {dataset}")
    files = VideoFiles(videos, VIDEO_SUFFIXES)
    if dataset == "kinetics710":
        found = _kinetics710(annotations, files, split, trimmed, labels)
    elif dataset in kinetics.SETS:
        found = _kinetics(annotations, files, split, trimmed)
    else:
        found = _READERS[dataset](annotations, files, split)
    if not found.clips:
        raise UserError(f"{annotations}: the split {split} of {dataset} lists no videos")
    if labels is not None:
        found = dataclasses.replace(found, labels=list(labels))
    check_labels(found.clips, found.labels)
    return found


def _kinetics(annotations: str, files: VideoFiles, split: str, trimmed: bool) -> Annotations:
    _check_split(split, tuple(kinetics.SPLITS))
    if tf.io.gfile.isdir(annotations):
        videos = kinetics.read_videos(kinetics.list_path(annotations, split))
    else:
        videos = kinetics.read_videos(annotations, split)
    return Annotations(kinetics.to_clips(videos, files, trimmed), sorted({video.label for video in videos}))


def _kinetics710(
    annotations: str, files: VideoFiles, split: str, trimmed: bool, labels: Sequence[str] | None
) -> Annotations:
    _check_split(split, ("train", "val"))
    folders = {name: _set_folder(annotations, name.removeprefix("kinetics")) for name in kinetics.SETS}
    wanted = {name: kinetics.read_videos(kinetics.list_path(folder, split)) for name, folder in folders.items()}
    held_out = set()
    if split == "train":
        paths = [path for folder in folders.values() for path in kinetics.held_out_paths(folder)]
        held_out = set().union(*map(kinetics.read_ids, paths))
    merged = kinetics.merge(wanted, held_out)
    names = sorted({name for mapping in merged.maps.values() for name in mapping.values()})
    labels = list(labels or names)
    check_labels([VideoSegment("kinetics710", name) for name in names], labels)
    tables = {f"map_{name}.csv": kinetics.map_table(mapping, labels) for name, mapping in merged.maps.items()}
    counts = {"classes": len(names), "videos": len(merged.videos), "sets": merged.counts}
    note = f"kinetics710 {split}: {len(merged.videos):,} videos of {len(names)} classes (710 in the published lists)"
    return Annotations(
        kinetics.to_clips(merged.videos, files, trimmed),
        labels,
        {**tables, f"kinetics710_{split}_counts.json": json.dumps(counts, indent=1) + "\n"},
        "\n".join([note, *(f"  {name}: {_words(count)}" for name, count in merged.counts.items())]),
    )


def _ssv2(annotations: str, files: VideoFiles, split: str) -> Annotations:
    _check_split(split, ("train", "val"))
    numbers = _json(_only(annotations, r".*labels\.json"))
    if not isinstance(numbers, dict) or {*map(str, numbers.values())} != {*map(str, range(len(numbers)))}:
        raise UserError(f"{annotations}: labels.json is no object of template: number, the numbers from 0 up")
    path = _only(annotations, {"train": r".*train\.json", "val": r".*validation\.json"}[split])
    clips = []
    for entry in _json(path):
        try:
            label, number, caption = entry["template"], str(entry["id"]), entry.get("label")
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: an entry lacks id or template: {entry}") from error
        # "Holding [something] next to [something]" stands in labels.json without the brackets.
        label = re.sub(r"[\[\]]", "", label)
        if label not in numbers:
            raise UserError(f"{path}: the template {label!r} of video {number} is not in labels.json")
        clips.append(VideoSegment(files.find(number) or f"{number}.webm", label, caption=caption, key=number))
    return Annotations(clips, sorted(numbers, key=lambda label: int(numbers[label])))


def _epic100(annotations: str, files: VideoFiles, split: str) -> Annotations:
    _check_split(split, ("train", "val"))
    path = _only(annotations, {"train": r"EPIC_100_train\.csv", "val": r"EPIC_100_validation\.csv"}[split])
    verbs = _epic_names(annotations, "verb")
    nouns = _epic_names(annotations, "noun")
    rates = _epic_rates(annotations)
    clips = []
    for line, row in csv_rows(path, read_text(path), ("video_id", "narration", "verb_class", "noun_class")):
        place, video = f"{path}, line {line}", row["video_id"]
        verb, noun = _number(row["verb_class"], place), _number(row["noun_class"], place)
        if verb >= len(verbs) or noun >= len(nouns):
            raise UserError(
                f"{place}: verb {verb} or noun {noun} is not in the class files ({len(verbs)}, {len(nouns)})"
            )
        file = files.find(video) or f"{row.get('participant_id') or video.partition('_')[0]}/videos/{video}.MP4"
        start, end = _epic_times(row, rates, place)
        key = f"{video} from {start} to {end}"
        clips.append(VideoSegment(file, None, start, end, row["narration"] or None, verb, noun, key))
    names = {"verbs.txt": verbs, "nouns.txt": nouns}
    return Annotations(clips, [], {name: "\n".join(lines) + "\n" for name, lines in names.items()})


def _epic_times(row: dict[str, str], rates: dict[str, float], place: str) -> tuple[float, float]:
    """Start and stop in seconds, from the times, or else from the frames, which count from 1."""
    if row.get("start_timestamp") and row.get("stop_timestamp"):
        return parse_seconds(row["start_timestamp"], place), parse_seconds(row["stop_timestamp"], place)
    if row["video_id"] not in rates or not row.get("start_frame") or not row.get("stop_frame"):
        raise UserError(f"{place}: has no times; for frames, EPIC_100_video_info.csv must name the video's rate")
    rate = rates[row["video_id"]]
    return (_number(row["start_frame"], place) - 1) / rate, _number(row["stop_frame"], place) / rate


def _epic_rates(annotations: str) -> dict[str, float]:
    path = os.path.join(annotations, "EPIC_100_video_info.csv")
    if not tf.io.gfile.exists(path):
        return {}
    rows = csv_rows(path, read_text(path), ("video_id", "fps"))
    return {row["video_id"]: parse_seconds(row["fps"], f"{path}, line {line}") for line, row in rows}


def _epic_names(annotations: str, kind: str) -> list[str]:
    """Class names of verbs or nouns; the second version of a file differs in the column `instances` alone."""
    first = os.path.join(annotations, f"EPIC_100_{kind}_classes.csv")
    path = first if tf.io.gfile.exists(first) else _only(annotations, rf"EPIC_100_{kind}_classes_v2\.csv")
    rows = csv_rows(path, read_text(path), ("id", "key"))
    names = {_number(row["id"], f"{path}, line {line}"): row["key"] for line, row in rows}
    if sorted(names) != list(range(len(rows))):
        raise UserError(f"{path}: the ids are not 0 to {len(rows) - 1}, each once")
    return [names[number] for number in range(len(names))]


def _ucf101(annotations: str, files: VideoFiles, split: str) -> Annotations:
    kind, number = _official_split(split)
    path = _only(annotations, rf"{kind}list0?{number}\.txt")
    classes = [line.split() for line in read_text(_only(annotations, r"classInd\.txt")).splitlines() if line.strip()]
    if [words[0] for words in classes] != [str(i + 1) for i in range(len(classes))] or {*map(len, classes)} - {2}:
        raise UserError(f"{annotations}: classInd.txt does not number its classes from 1 up, NUMBER NAME a line")
    labels = {name: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for _, name in classes}  # TaiChi: Tai Chi
    clips = []
    for line, text in enumerate(read_text(path).splitlines(), 1):
        file = text.split(" ")[0].strip()
        if file and file.partition("/")[0] not in labels:
            raise UserError(f"{path}, line {line}: the folder of {file!r} is no class of classInd.txt")
        if file:
            found = files.find(os.path.splitext(file)[0]) or file
            clips.append(VideoSegment(found, labels[file.partition("/")[0]], key=file))
    return Annotations(clips, list(labels.values()))


def _hmdb51(annotations: str, files: VideoFiles, split: str) -> Annotations:
    kind, number = _official_split(split)
    wanted = {"train": "1", "test": "2"}[kind]  # 0: in neither
    names = sorted(name for name in tf.io.gfile.listdir(annotations) if name.endswith(f"_test_split{number}.txt"))
    if not names:
        raise UserError(f"{annotations}: holds no CLASS_test_split{number}.txt")
    clips, labels = [], []
    for name in names:
        folder = name.removesuffix(f"_test_split{number}.txt")
        labels.append(folder.replace("_", " "))
        for line, text in enumerate(read_text(os.path.join(annotations, name)).splitlines(), 1):
            words = text.split()
            if words and (len(words) != 2 or words[1] not in "012"):
                raise UserError(f"{annotations}/{name}, line {line}: {text!r} is not FILE and 0, 1 or 2")
            if words and words[1] == wanted:
                path = f"{folder}/{words[0]}"
                clips.append(VideoSegment(files.find(os.path.splitext(path)[0]) or path, labels[-1], key=path))
    return Annotations(clips, labels)


_READERS: dict[str, Callable[[str, VideoFiles, str], Annotations]] = {
    "ssv2": _ssv2,
    "epic100": _epic100,
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
}
DATASETS = (*kinetics.SETS, "kinetics710", *_READERS)


def _check_split(split: str, splits: Sequence[str]) -> None:
    if split not in splits:
        raise UserError(f"--split {split!r}: wanted {' or '.join(splits)}")


def _official_split(split: str) -> tuple[str, str]:
    match = re.fullmatch(r"(train|test)0?([123])", split)
    if not match:
        raise UserError(f"--split {split!r}: wanted train1, train2, train3, test1, test2 or test3, the official splits")
    return match[1], match[2]


def _set_folder(annotations: str, number: str) -> str:
    """Of three folders kinetics400, k600, kinetics700_2020... the one of a set."""
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(annotations)]
    found = [name for name in names if number in name and tf.io.gfile.isdir(os.path.join(annotations, name))]
    if len(found) != 1:
        raise UserError(
            f"{annotations}: wanted one folder with {number} in its name, for Kinetics-{number}; it has {names}"
        )
    return os.path.join(annotations, found[0])


def _only(folder: str, pattern: str) -> str:
    """The one file of the folder whose name matches."""
    names = sorted(tf.io.gfile.listdir(folder)) if tf.io.gfile.isdir(folder) else []
    found = [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]
    if len(found) != 1:
        wanted = pattern.replace("\\", "")
        raise UserError(f"{folder}: wanted one file {wanted}; it has {', '.join(found or names) or 'none'}")
    return os.path.join(folder, found[0])


def _json(path: str) -> object:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error})") from error


def _number(text: str, place: str) -> int:
    if not text.strip().isdecimal():
        raise UserError(f"{place}: {text!r} is no whole number from 0")
    return int(text)


def _words(count: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in count.items())
