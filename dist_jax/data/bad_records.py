"""Unreadable records: skipped, counted by kind and listed in a CSV file. Too many of them stop the run."""

import csv
import dataclasses
import io
import math
import threading
from pathlib import Path
from typing import NamedTuple

from dist_jax.errors import UserError
from dist_jax.files import write_text

KINDS = ("checksum", "image", "record")  # what failed: a record's checksum, one of its frames, anything else
_COLUMNS = ("split", "record", "kind", "location", "message", "data")
_file_lock = threading.Lock()  # the splits share one file and are read by different threads
_last_writers: dict[str, "BadRecords"] = {}  # by path of the file


class Problem(NamedTuple):
    """Why a record cannot be read."""

    kind: str  # one of KINDS
    location: str  # file and byte of the record
    message: str


@dataclasses.dataclass
class BadRecords:
    """Unreadable records that this host has read in this run.

    Attributes:
        split: "train" or "val", for the list and the messages.
        path: CSV file with one line per bad record, a pathlib.Path or etils.epath.Path (remote files); None: no list.
            A restarted run keeps the lines. Each host has its own file.
        data: `Source.identity` of the split. Lines of the file with another identity are dropped.
        num_reads: records read so far, without the replacements of bad ones.
        num_bad_reads: bad records among them. A record counts each time it is read.
    """

    split: str
    path: Path | None = None
    data: str = ""
    num_reads: int = 0
    num_bad_reads: int = 0
    _problems: dict[int, Problem] = dataclasses.field(default_factory=dict)  # record -> problem, of this run
    _earlier: dict[int, Problem] = dataclasses.field(default_factory=dict)  # as listed by earlier runs
    _num_written: int = 0  # how many of `_problems` the file contains
    _rows_of_other_splits: list[list[str]] = dataclasses.field(default_factory=list)  # at the last update

    def __post_init__(self) -> None:
        # Bad records of an earlier run stay in the list, but count only if this run reads them.
        listed = [row for row in self._read_rows() if row[0] == self.split]
        self._earlier = {int(record): Problem(*rest) for _, record, *rest, data in listed if data == self.data}
        if len(self._earlier) < len(listed):
            self._num_written = -1  # the first `check` drops the lines of other data

    @property
    def counts(self) -> dict[str, int]:
        """Number of different bad records by kind."""
        kinds = list(self.kinds.values())
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    @property
    def kinds(self) -> dict[int, str]:
        """The bad records so far -> kind."""
        return {record: problem.kind for record, problem in list(self._problems.items())}

    def __contains__(self, record: int) -> bool:
        return record in self._problems

    def kind(self, record: int) -> int:
        """Index in KINDS of the record's problem; -1 for a record that was not added."""
        return KINDS.index(self._problems[record].kind) if record in self._problems else -1

    def add(self, record: int, problem: Problem) -> None:
        """Adds a bad record. `check` writes it to the list."""
        self._problems[record] = problem

    def check(self, max_fraction: float, num_records: int) -> None:
        """Updates the list. Raises UserError if more than `max_fraction` of `num_records` records are bad.

        The error is raised if this host has read that many different bad records, or if its share of bad reads is six
        standard deviations above the limit. The second test matters when each of many hosts reads only a few records:
        every host decides from its own reads.
        """
        self._update_list()
        expected = max_fraction * self.num_reads
        tolerated = expected + 6 * math.sqrt(expected + 1)
        num_bad = len(self._problems)
        if num_bad > max_fraction * num_records or (max_fraction < 1 and self.num_bad_reads > tolerated):
            kinds = ", ".join(f"{count} x {kind}" for kind, count in self.counts.items())
            listed = f", listed in {self.path}" if self.path else ""
            raise UserError(
                f"{self.split}: {num_bad} of {num_records} records are unreadable so far ({kinds}{listed}), more than "
                f"data.max_bad_fraction={max_fraction:g} allows: repair the data or raise the limit"
            )

    def _update_list(self) -> None:
        if self.path is None or self._num_written == len(self._problems):
            return
        with _file_lock:
            if _last_writers.get(str(self.path)) is not self:  # only this process writes the file
                self._rows_of_other_splits = [row for row in self._read_rows() if row[0] != self.split]
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(self._rows_of_other_splits)
            problems = self._earlier | self._problems
            writer.writerows((self.split, record, *problem, self.data) for record, problem in problems.items())
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(str(self.path), text.getvalue())
            _last_writers[str(self.path)] = self
        self._num_written = len(self._problems)

    def _read_rows(self) -> list[list[str]]:
        if self.path is None or not self.path.exists():
            return []
        rows = csv.reader(io.StringIO(self.path.read_text()))
        return [row for row in rows if len(row) == len(_COLUMNS) and row[1].isdecimal()]  # without the header
