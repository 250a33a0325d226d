"""Limits of the server, and the errors of requests."""

import dataclasses
import math

from dist_jax.errors import UserError

RETRY_AFTER_S = 5  # seconds until a client should try again if the queue is full
BYTES_PER_MB = 1_000_000


class RequestError(UserError):
    """A request that the server does not answer with a result. The message is one line.

    Attributes:
        status: HTTP status code.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may use. The defaults are those of `python -m dist_jax.serve`."""

    max_upload_mb: float = 200.0  # size of a video file, 10^6 bytes
    max_duration_s: float = 600.0  # length of a video, seconds
    max_labels: int = 100  # typed class names
    max_windows: int = 1000  # of a timeline
    max_queue: int = 16  # requests at the same time: uploads, waiting and running jobs

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:  # also NaN
                option = field.name.removesuffix("_s").replace("_", "-")
                raise UserError(f"--{option} {value:g}: must be greater than 0{'' if value <= 0 else ' and finite'}")

    @property
    def max_upload_bytes(self) -> int:
        """Size of a video file in bytes."""
        return round(self.max_upload_mb * BYTES_PER_MB)
