"""The timeline and live modes of `python -m dist_jax.predict`."""

import argparse
import contextlib
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction

import jax
from tqdm import tqdm

from dist_jax.errors import UserError
from dist_jax.files import user_path
from dist_jax.inference.live import LiveStream
from dist_jax.inference.output_files import open_output
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.segments import Segment, SegmentMerger
from dist_jax.inference.timeline import Window, classify_file, make_grid
from dist_jax.inference.timeline_output import (
    CsvOutput,
    JsonLinesOutput,
    JsonOutput,
    TimelineOutput,
    best_classes,
)
from dist_jax.inference.timeline_plot import TimelinePlot
from dist_jax.inference.times import clock_time, parse_time
from dist_jax.inference.window_grid import WindowGrid
from dist_jax.video import opening


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the timeline and live modes."""
    group = parser.add_argument_group("timeline and live")
    group.add_argument("--timeline", action="store_true", help="class probabilities over time, in windows of --video")
    group.add_argument("--live", default="", help="classify a live stream: URL, device (/dev/video0), or - (stdin)")
    group.add_argument(
        "--window", default="", help="length of a window: 10s, 500ms, 1.5, 0:01:30; default: the mean training clip"
    )
    group.add_argument("--hop", default="", help="time from a window to the next; default: window / 8")
    group.add_argument("--start", default="", help="start of the first window; default: start of the video")
    group.add_argument("--end", default="", help="windows end at or before this time; default: end of the video")
    group.add_argument(
        "--csv", type=user_path, default="", help="output file with one row per window; - for standard output"
    )
    group.add_argument("--timeout", default="10s", help="--live: maximum time without a frame; default %(default)s")


def check_arguments(args: argparse.Namespace) -> None:
    """Raises UserError for options that do not go together."""
    if args.timeline and args.live:
        raise UserError("--timeline and --live exclude each other; --timeline is for --video FILE")
    if args.live and args.video:
        raise UserError(f"--live {args.live} and --video {args.video[0]} exclude each other; remove one")
    if not args.live and not args.video:
        raise UserError("--video is missing: the video file to classify; or --live for a stream")
    if args.timeline and len(args.video) > 1:
        raise UserError(f"--timeline takes one --video, not {len(args.video)}; run the command once per video")
    if args.live and (args.plot or args.start or args.end):
        raise UserError("--plot, --start and --end are for files; remove them from --live")
    if not (args.timeline or args.live):
        given = [name for name in ("window", "hop", "start", "end", "csv") if getattr(args, name)]
        if given:
            raise UserError(f"--{given[0]} needs --timeline or --live; add one")
    if args.explain and (args.timeline or args.live):
        raise UserError(f"--explain {args.explain} is for clips of a --video; remove it, or --timeline and --live")
    if args.csv == "-" and args.json == "-":
        raise UserError("--csv - and --json - both write to standard output; write one to a file")


def run_timeline(
    args: argparse.Namespace, model: Predictor, names: Sequence[str], text_features: jax.Array | None
) -> None:
    """Prints the segments of a video, and writes the output files."""
    (path,) = args.video
    grid = _grid(args, model)
    end = parse_time("--end", args.end) if args.end else None
    if end is not None and end < grid.start + grid.window:
        raise UserError(
            f"--end {args.end}: the first window ends at {float(grid.start + grid.window):g} s; use a later --end or a "
            "shorter --window"
        )
    length = opening.duration_s(path) if end is None else float(end)
    total = None if length is None else max(length - float(grid.start), 0)
    windows = classify_file(model, path, grid, text_features, end, args.square_pixels)
    with contextlib.ExitStack() as stack:
        outputs: list[TimelineOutput] = []
        if args.csv:
            outputs.append(CsvOutput(stack.enter_context(open_output("--csv", args.csv)), names))
        if args.json:
            outputs.append(JsonOutput(stack.enter_context(open_output("--json", args.json)), path, names))
        if args.plot:
            outputs.append(TimelinePlot(args.plot, path, names))
        if "-" not in (args.csv, args.json):
            outputs.append(_SegmentTable(names))
        bar = tqdm(total=total, unit="s", unit_scale=True, disable=None, leave=False)
        stack.enter_context(contextlib.closing(bar))
        _write(windows, grid, outputs, bar)


def run_live(args: argparse.Namespace, model: Predictor, names: Sequence[str], text_features: jax.Array | None) -> None:
    """Prints one line per window of a live stream as it comes."""
    timeout = parse_time("--timeout", args.timeout)
    if timeout <= 0:
        raise UserError(f"--timeout {args.timeout}: must be greater than 0")
    stream = LiveStream(model, args.live, _grid(args, model), text_features, float(timeout), args.square_pixels)
    with contextlib.ExitStack() as stack:
        outputs: list[TimelineOutput] = []
        if args.csv:
            outputs.append(CsvOutput(stack.enter_context(open_output("--csv", args.csv)), names))
        if args.json:
            file = stack.enter_context(open_output("--json", args.json))
            outputs.append(JsonLinesOutput(file, names, args.top))
        if "-" not in (args.csv, args.json):
            outputs.append(_LiveTable(names, args.top))
        try:
            for window in stream.windows():
                for output in outputs:
                    output.add_window(window, stream.num_dropped)
        finally:
            print(f"{args.live}: {stream.summary}", file=sys.stderr)


def _grid(args: argparse.Namespace, model: Predictor) -> WindowGrid:
    if args.window:
        window = parse_time("--window", args.window)
    elif model.clip_seconds is None:
        raise UserError(f"--window is missing: {args.model} does not contain the length of its training clips")
    else:
        window = Fraction(model.clip_seconds).limit_denominator(1000)
    hop = parse_time("--hop", args.hop) if args.hop else None
    for option, time in (("--window", window), ("--hop", hop)):
        if time is not None and time <= 0:
            raise UserError(f"{option} is {float(time):g} s; must be greater than 0")
    return make_grid(model, window, hop, parse_time("--start", args.start) if args.start else Fraction(0))


def _write(windows: Iterable[Window], grid: WindowGrid, outputs: Sequence[TimelineOutput], bar: tqdm) -> None:
    """Writes windows and segments to all outputs; completes the outputs also if reading the video fails."""
    merger = SegmentMerger(grid)

    def write_segment(segment: Segment | None) -> None:
        if segment is not None:
            for output in outputs:
                output.add_segment(segment)

    try:
        for window in windows:
            write_segment(merger.add(window))
            for output in outputs:
                output.add_window(window, 0)
            bar.update(float(window.end - grid.start) - bar.n)
    finally:
        bar.close()
        write_segment(merger.finish())
        for output in outputs:
            output.finish()


class _SegmentTable(TimelineOutput):
    """Prints one line per segment: start, end, class, mean probability."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def add_window(self, window: Window, num_dropped: int) -> None:
        """Windows are not printed."""

    def add_segment(self, segment: Segment) -> None:
        """See the base class."""
        times = f"{clock_time(segment.start):>10} {clock_time(segment.end):>10}"
        tqdm.write(f"{times}  {100 * segment.probability:5.1f} %  {self._names[segment.label]}", file=sys.stdout)


class _LiveTable(TimelineOutput):
    """Prints one line per window: start, end, the most probable classes, dropped frames if there are any."""

    def __init__(self, names: Sequence[str], top: int) -> None:
        self._names, self._top = names, top

    def add_window(self, window: Window, num_dropped: int) -> None:
        """See the base class."""
        best = best_classes(window.probabilities, self._top)
        classes = ", ".join(f"{100 * window.probabilities[k]:.1f} % {self._names[k]}" for k in best)
        dropped = f"  ({num_dropped} frames dropped)" if num_dropped else ""
        print(f"{clock_time(window.start):>10} {clock_time(window.end):>10}  {classes}{dropped}", flush=True)
