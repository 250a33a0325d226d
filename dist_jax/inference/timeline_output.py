"""Output files of a timeline. They are written window by window, so that memory does not depend on their number."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import IO

import numpy as np

from dist_jax.inference.segments import Segment
from dist_jax.inference.timeline import Window


class TimelineOutput(ABC):
    """Receives the windows and segments of a timeline in order."""

    @abstractmethod
    def add_window(self, window: Window, num_dropped: int) -> None:
        """Writes a window; `num_dropped` frames of a live stream were dropped so far."""

    def add_segment(self, segment: Segment) -> None:
        """Writes a segment."""
        del segment

    def finish(self) -> None:  # noqa: B027 (most outputs are complete)
        """Completes the output."""


class CsvOutput(TimelineOutput):
    """One row per window: start, end (seconds), then the probability of each class in a column with its name."""

    def __init__(self, file: IO[str], class_names: Sequence[str]) -> None:
        self._file, self._rows = file, csv.writer(file, lineterminator="\n")
        self._rows.writerow(["start", "end", *class_names])

    def add_window(self, window: Window, num_dropped: int) -> None:
        """See the base class."""
        times = (f"{seconds(time):g}" for time in (window.start, window.end))
        self._rows.writerow([*times, *(f"{p:.6g}" for p in window.probabilities)])
        self._file.flush()


class JsonOutput(TimelineOutput):
    """One document: "video", "classes", "windows" with the probabilities in the order of the classes, "segments"."""

    def __init__(self, file: IO[str], path: str, class_names: Sequence[str]) -> None:
        self._file, self._names = file, class_names
        self._segments: list[str] = []
        self._separator = ""
        file.write(f'{{"video": {json.dumps(path)},\n"classes": {json.dumps(list(class_names))},\n"windows": [')

    def add_window(self, window: Window, num_dropped: int) -> None:
        """See the base class."""
        probabilities = [round(float(p), 7) for p in window.probabilities]
        content = {"start": seconds(window.start), "end": seconds(window.end), "probabilities": probabilities}
        self._file.write(f"{self._separator}\n{json.dumps(content)}")
        self._separator = ","

    def add_segment(self, segment: Segment) -> None:
        """See the base class."""
        content = {"start": seconds(segment.start), "end": seconds(segment.end), "label": self._names[segment.label]}
        self._segments.append(json.dumps(content | {"probability": round(segment.probability, 7)}))

    def finish(self) -> None:
        """See the base class."""
        self._file.write('],\n"segments": [' + ",".join(f"\n{segment}" for segment in self._segments) + "]}\n")


class JsonLinesOutput(TimelineOutput):
    """One JSON object per window, written at once: times, the most probable classes, dropped frames."""

    def __init__(self, file: IO[str], class_names: Sequence[str], top: int) -> None:
        self._file, self._names, self._top = file, class_names, top

    def add_window(self, window: Window, num_dropped: int) -> None:
        """See the base class."""
        classes = [
            {"label": self._names[k], "probability": round(float(window.probabilities[k]), 7)}
            for k in best_classes(window.probabilities, self._top)
        ]
        times = {"start": seconds(window.start), "end": seconds(window.end)}
        print(json.dumps(times | {"predictions": classes, "dropped_frames": num_dropped}), file=self._file, flush=True)


def best_classes(probabilities: np.ndarray, top: int) -> list[int]:
    """Numbers of the `top` most probable classes, best first."""
    return np.argsort(-probabilities, kind="stable")[:top].tolist()


def seconds(time: Fraction) -> float:
    """Seconds, rounded to microseconds."""
    return round(float(time), 6)
