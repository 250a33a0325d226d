"""Chooses frames of a video that is decoded once, from its start to its end, at given times."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

from dist_jax.video.container import DecodedFrame
from dist_jax.video.decoding import TIME_TOLERANCE_S


class FrameSampler:
    """The last frame at or before each time; before the first frame, the first one.

    Args:
        frames: decoded frames in increasing order of time. Only the latest one is kept.
    """

    def __init__(self, frames: Iterable[DecodedFrame]) -> None:
        self._frames = frames
        self._end_s = 0.0
        self._has_frames = False

    @property
    def end_s(self) -> float:
        """End of the last decoded frame, seconds from the start of the file."""
        return self._end_s

    @property
    def has_frames(self) -> bool:
        """Whether any frame has been decoded."""
        return self._has_frames

    def at(self, times: Iterable[Fraction]) -> Iterator[DecodedFrame]:
        """One frame for each of the increasing `times` (seconds) before the end of the video, as soon as it is known.

        Decodes until the times or the frames end.
        """
        remaining = iter(times)
        time = next(remaining, None)
        previous: DecodedFrame | None = None
        for frame in self._frames:
            while previous is not None and time is not None and time < frame.time - TIME_TOLERANCE_S:
                yield previous
                time = next(remaining, None)
            if time is None:
                return
            previous, self._has_frames, self._end_s = frame, True, frame.time + frame.duration
        while previous is not None and time is not None and time < self._end_s - TIME_TOLERANCE_S:
            yield previous
            time = next(remaining, None)
