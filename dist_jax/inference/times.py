"""Times in a video as text."""

import re
from fractions import Fraction

from dist_jax.errors import UserError

_MAX_TIME_S = 10**9  # 32 years
_MAX_LENGTH = 40  # characters; Python does not convert thousands of digits
_UNITS = {"ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60), "h": Fraction(3600), "": Fraction(1)}


def parse_time(option: str, text: str) -> Fraction:
    """Seconds of "10s", "500ms", "2min", "1.5", "0:01:30". Raises UserError for any other text, or above 10^9 s."""
    shown = text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."
    time = _seconds(text) if shown == text else None
    if time is None:
        raise UserError(f"{option} {shown}: is not a time; write for example 10s, 500ms, 1.5 or 0:01:30")
    if time > _MAX_TIME_S:
        raise UserError(f"{option} {text}: must be at most {_MAX_TIME_S:,} s")
    return time


def clock_time(time: Fraction | float) -> str:
    """Seconds as H:MM:SS.s, rounded."""
    tenths = round(time * 10)
    return f"{tenths // 36_000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _seconds(text: str) -> Fraction | None:
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms|s|min|h|)", text)
    if match:
        return Fraction(match[1]) * _UNITS[match[2]]
    if re.fullmatch(r"(\d+:){1,2}\d+(\.\d+)?", text):
        return sum((Fraction(part) * 60**power for power, part in enumerate(reversed(text.split(":")))), Fraction(0))
    return None
