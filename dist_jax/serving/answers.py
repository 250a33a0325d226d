"""Answers to requests as JSON values, from a video file and the fields of a form. No web framework."""

import dataclasses
import io
import json
import threading
from collections.abc import Mapping
from fractions import Fraction

from dist_jax.inference.segments import SegmentMerger
from dist_jax.inference.timeline_output import JsonOutput
from dist_jax.inference.timeline_plot import TimelinePlot
from dist_jax.inference.times import parse_time
from dist_jax.serving import pictures
from dist_jax.serving.classifier import OVERLAPS, ServedModel
from dist_jax.serving.jobs import Stopped
from dist_jax.serving.limits import RequestError

CLASSIFY_FIELDS = ("labels", "top", "pictures")
TIMELINE_FIELDS = ("labels", "window", "overlap", "pictures")
DEFAULT_TOP = 5
DEFAULT_OVERLAP = 2
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclasses.dataclass(frozen=True)
class Upload:
    """A received form with a video file."""

    path: str  # of the file, until the answer is ready
    name: str  # of the file on the client's side
    fields: Mapping[str, str]


def classification(model: ServedModel, upload: Upload, stop: threading.Event) -> dict:
    """Answers "classify": video, frames (numbers of each view), predictions, and pictures if they are wanted.

    Raises:
        UserError: invalid fields or video; RequestError has the status.
        Stopped: `stop` is set.
    """
    classes = model.classes(upload.fields.get("labels", ""))
    top = _integer(upload.fields, "top", DEFAULT_TOP)
    if top < 1:
        raise RequestError(400, f"top {top}: must be at least 1")
    with_pictures = _flag(upload.fields, "pictures")
    prediction = dataclasses.replace(model.classify(upload.path, classes, top, stop), path=upload.name)
    answer = prediction.as_dict()
    if stop.is_set():
        raise Stopped
    if with_pictures:
        answer["pictures"] = {"frames": pictures.contact_sheet(prediction.views)}
        if (evidence := model.explain(prediction)) is not None:
            answer["pictures"]["attention"] = pictures.attention_maps(evidence)
    return answer


def timeline(model: ServedModel, upload: Upload, stop: threading.Event) -> dict:
    """Answers "timeline": video, classes, windows, segments, and a picture if it is wanted. See `classification`."""
    classes = model.classes(upload.fields.get("labels", ""))
    window = upload.fields.get("window", "").strip()
    grid = model.grid(
        upload.path,
        parse_time("window", window) if window else None,
        _integer(upload.fields, "overlap", DEFAULT_OVERLAP),
        stop,
    )
    text, image = io.StringIO(), io.BytesIO()
    output = JsonOutput(text, upload.name, classes.names)
    plot = TimelinePlot(image, upload.name, classes.names) if _flag(upload.fields, "pictures") else None
    merger = SegmentMerger(grid)
    for item in model.timeline(upload.path, grid, classes, stop):
        if (segment := merger.add(item)) is not None:
            output.add_segment(segment)
        output.add_window(item, 0)
        if plot:
            plot.add_window(item, 0)
    if (segment := merger.finish()) is not None:
        output.add_segment(segment)
    output.finish()
    answer = json.loads(text.getvalue())
    if plot:
        with pictures.DRAWING:
            plot.finish()
        answer["pictures"] = {"timeline": pictures.data_uri(image, "image/png")}
    return answer


def model_facts(model: ServedModel, name: str) -> dict:
    """Answers "model": what the model classifies, and the limits of the server."""
    seconds = model.model.clip_seconds
    return {
        "model": name,
        "classes": list(model.class_names),
        "labels": "not possible" if model.labels_problem else "optional" if model.class_names else "required",
        "frames_per_clip": model.model.num_frames,
        "window": None if seconds is None else float(Fraction(seconds).limit_denominator(1000)),
        "overlaps": list(OVERLAPS),
        "limits": dataclasses.asdict(model.limits),
    }


def _integer(fields: Mapping[str, str], name: str, default: int) -> int:
    text = fields.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RequestError(400, f"{name} {text[:40]!r}: must be a whole number")
    return int(text)


def _flag(fields: Mapping[str, str], name: str) -> bool:
    text = fields.get(name, "").strip().lower()
    if text not in _FLAGS:
        raise RequestError(400, f"{name} {text[:40]!r}: must be true or false")
    return _FLAGS[text]
