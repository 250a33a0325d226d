"""The annotation files of EPIC-KITCHENS-100: segments with a verb, a noun and a narration id."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence

from dist_jax.build_records.annotation_files import find_file, parse_number
from dist_jax.build_records.video_files import VideoFiles
from dist_jax.errors import UserError
from dist_jax.files import exists, read_text
from dist_jax.video.video_list import VideoSegment, csv_rows, parse_seconds

FILES = {  # by split
    "train": r"EPIC_100_train\.csv",
    "val": r"EPIC_100_validation\.csv",
    "test": r"EPIC_100_test_timestamps\.csv",
}


def read_segments(
    annotations: str, files: VideoFiles, split: str, verbs: Sequence[str], nouns: Sequence[str]
) -> list[VideoSegment]:
    """Segments of a split. Those of the test split have no verb, noun and caption.

    Args:
        annotations: folder of the published files.
        files: the videos.
        split: key of `FILES`.
        verbs: verb classes, by class number.
        nouns: noun classes, by class number.

    Raises:
        UserError: a file is missing or invalid, or a narration id occurs twice.
    """
    path = find_file(annotations, FILES[split])
    labels = () if split == "test" else ("narration", "verb_class", "noun_class")
    columns = ["video_id", *(labels or ("narration_id",))]  # ids are optional in the splits with labels
    segments = []
    for line, row in csv_rows(path, read_text(path), columns):
        segment = _segment(row, f"{path}, line {line}", files)
        segments.append(segment if not labels else _labelled(segment, row, f"{path}, line {line}", verbs, nouns))
    _check_narration_ids(path, segments)
    return segments


def _labelled(
    segment: VideoSegment, row: dict[str, str], location: str, verbs: Sequence[str], nouns: Sequence[str]
) -> VideoSegment:
    verb, noun = parse_number(row["verb_class"], location), parse_number(row["noun_class"], location)
    if verb >= len(verbs) or noun >= len(nouns):
        raise UserError(
            f"{location}: verb {verb} or noun {noun} is not in the class files ({len(verbs)} verbs, {len(nouns)} nouns)"
        )
    return dataclasses.replace(segment, caption=row["narration"] or None, verb=verb, noun=noun)


def _segment(row: dict[str, str], location: str, files: VideoFiles) -> VideoSegment:
    """The segment of a row, without labels. A file without the column narration_id gives no ids."""
    video = row["video_id"]
    file = files.find(video) or f"{row.get('participant_id') or video.partition('_')[0]}/videos/{video}.MP4"
    start, end = _times(row, location)
    key = f"{video} from {start} to {end}"
    if row.get("narration_id") == "":
        raise UserError(f"{location}: narration_id is empty")
    return VideoSegment(file, None, start, end, key=key, narration_id=row.get("narration_id"))


def _check_narration_ids(path: str, segments: Sequence[VideoSegment]) -> None:
    """Raises UserError for an id that occurs twice: scores are reported by narration id."""
    counts = Counter(segment.narration_id for segment in segments if segment.narration_id is not None)
    repeated = [narration_id for narration_id, count in counts.items() if count > 1]
    if repeated:
        raise UserError(f"{path}: narration_id {repeated[0]!r} occurs {counts[repeated[0]]} times; it must be unique")


def _times(row: dict[str, str], location: str) -> tuple[float, float]:
    """Start and end in seconds, from the timestamps, or else from the frame numbers.

    The frame numbers count frames of the published images, which have a constant rate: 60 per second for the videos of
    EPIC-KITCHENS-55 (P01_01) and 50 for those of the extension (P01_101). The rate of the video file may be another.
    """
    if row.get("start_timestamp") and row.get("stop_timestamp"):
        return parse_seconds(row["start_timestamp"], location), parse_seconds(row["stop_timestamp"], location)
    if not row.get("start_frame") or not row.get("stop_frame"):
        raise UserError(f"{location}: neither start_timestamp and stop_timestamp nor start_frame and stop_frame")
    match = re.fullmatch(r"P\d+_(\d{2,3})", row["video_id"])
    if not match:
        raise UserError(
            f"{location}: the video {row['video_id']!r} is not named like P01_01 (60 frames per second) or P01_101 "
            "(50), so its frame numbers have no times; add the columns start_timestamp and stop_timestamp"
        )
    fps = 60 if len(match[1]) == 2 else 50
    start, end = (parse_number(row[name], location) / fps for name in ("start_frame", "stop_frame"))
    return start, end


def class_names(annotations: str, kind: str) -> list[str]:
    """Class names of verbs or nouns. Version 2 of a file differs only in the column `instances`."""
    first = os.path.join(annotations, f"EPIC_100_{kind}_classes.csv")
    path = first if exists(first) else find_file(annotations, rf"EPIC_100_{kind}_classes_v2\.csv")
    rows = csv_rows(path, read_text(path), ("id", "key"))
    names = {parse_number(row["id"], f"{path}, line {line}"): row["key"] for line, row in rows}
    if sorted(names) != list(range(len(rows))):
        raise UserError(f"{path}: the ids must be 0 to {len(rows) - 1}, each once")
    return [names[number] for number in range(len(names))]
