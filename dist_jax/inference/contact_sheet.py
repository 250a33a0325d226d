"""A picture of search results: a strip of frames per match."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dist_jax.evaluation.plot_text import shorten
from dist_jax.inference.embeddings import Match, frames_between
from dist_jax.inference.plots import montage, save
from dist_jax.inference.times import clock_time
from dist_jax.inference.video_classifier import read_crops
from dist_jax.video import decoding

COLUMNS = 2  # strips side by side
STRIP_FRAMES = 4
STRIP_PIXELS = 160  # height and width of a frame
WIDTH_INCHES = 13
TITLE_LENGTH = 100  # characters of the query


def read_strip(path: str, start_s: float, end_s: float, square_pixels: bool) -> np.ndarray:
    """Evenly spaced frames of a span of a video: uint8 [STRIP_FRAMES, STRIP_PIXELS, STRIP_PIXELS, 3].

    Raises:
        VideoError: the video cannot be read.
    """
    first, num_frames = frames_between(decoding.probe(path).times, start_s, end_s)
    points = first + (np.arange(STRIP_FRAMES) + 0.5) * num_frames / STRIP_FRAMES
    return read_crops(path, points.astype(np.int64)[None], STRIP_PIXELS, 1, square_pixels)[0, 0]


def draw_sheet(query: str, matches: Sequence[Match], strips: Sequence[np.ndarray], path: str) -> None:
    """Writes the sheet: the best match first, in reading order.

    Args:
        query: title.
        matches: at least one.
        strips: of each match, from `read_strip`.
        path: output file (.png, .pdf, .svg).

    Raises:
        UserError: `path` has an unknown extension or cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which may need a display

    num_rows = -(-len(matches) // COLUMNS)
    height = 0.5 + num_rows * (WIDTH_INCHES / COLUMNS / STRIP_FRAMES + 0.35)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    cells = figure.subplots(num_rows, COLUMNS, squeeze=False).ravel()
    for cell in cells:
        cell.axis("off")
    for number, (cell, match, strip) in enumerate(zip(cells, matches, strips, strict=False), start=1):
        cell.imshow(montage(strip[None], STRIP_FRAMES))
        title = f"{number}. {match.similarity:.3f}  {format_span(match)}  {_shorten(match.span.path)}"
        cell.set_title(title, loc="left", fontsize=9, parse_math=False)
    title = shorten(query, TITLE_LENGTH)
    figure.suptitle(title, x=0.01, ha="left", parse_math=False)
    save(figure, path, height, "--sheet")


def format_span(match: Match) -> str:
    """For example "0:10.0-0:20.0"."""
    return f"{clock_time(match.span.start_s)}-{clock_time(match.span.end_s)}"


def _shorten(path: str) -> str:
    name = Path(path).as_posix()
    return name if len(name) <= 50 else "..." + name[-47:]
