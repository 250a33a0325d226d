"""Reads the record of a row of a batch: a second attempt, and the next record in place of a bad one."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data.bad_records import BadRecords, Problem
from dist_jax.data.clips import Row
from dist_jax.data.image_decoding import ImageError
from dist_jax.data.record_reader import ChecksumError
from dist_jax.data.source import Source, StoredClip
from dist_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RowReader:
    """Fills the rows of batches. Several threads may call `read` at the same time."""

    source: Source
    make_row: Callable[[StoredClip, int, int, np.ndarray], Row]  # clip, record, epoch, memory of `video`
    make_blank_row: Callable[[np.ndarray], Row]  # memory of `video`
    bad_records: BadRecords  # a record that was bad before is tried once, any other twice

    def read(self, epoch: int, candidates: Sequence[int], video: np.ndarray) -> tuple[Row, Problem | None]:
        """Fills a row with the first readable candidate.

        Args:
            epoch: of the candidates.
            candidates: records. If none is readable, the row is blank.
            video: the row's memory, uint8 [..., T, H, W, 3].

        Returns:
            The other entries of the row, and the problem of the first candidate.
        """
        first_problem = None
        for record in candidates:
            result = self._read_record(epoch, record, video)
            if not isinstance(result, Problem):
                return result, first_problem
            first_problem = first_problem or result
        return self.make_blank_row(video), first_problem

    def _read_record(self, epoch: int, record: int, video: np.ndarray) -> Row | Problem:
        """The row of a record, or the problem of the last attempt. An error of the file system can be temporary."""
        message = ""
        for _ in range(1 if record in self.bad_records else 2):
            try:
                kind = "record"
                clip = self.source.read(record)
                kind = "image"
                return self.make_row(clip, record, epoch, video)
            except ChecksumError as error:
                kind, message = "checksum", str(error)
            except ImageError as error:
                kind, message = "image", str(error)
            except tf.errors.OpError as error:
                kind, message = "record", str(error)
            except OSError as error:
                kind, message = "record", f"{type(error).__name__}: {error}"
            except UserError as error:
                message = str(error)
            except Exception as error:  # an error in one record must not stop the others
                message = f"{type(error).__name__}: {error}"
        return Problem(kind, self.source.location(record), " ".join(message.split())[:300])
