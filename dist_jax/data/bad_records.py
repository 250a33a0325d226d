"""Records that cannot be read: skipped, counted by kind, listed, and too many of them stop the run."""

import csv
import dataclasses
import io
import math
import threading
from pathlib import Path

from dist_jax.errors import UserError
from dist_jax.files import write_text

_COLUMNS = ("split", "record", "kind", "where", "message", "data")
KINDS = ("checksum", "image", "record")  # what may be wrong: a record's bytes, a frame, all else
_writing = threading.Lock()  # the splits share a file and are read by threads of their own


@dataclasses.dataclass
class BadRecords:
    """The bad records that this host has met in this run.

    Attributes:
        split: "train" or "val", for the list and the messages.
        path: CSV file that gets a line for every bad record, once, over restarts too; None: no list. Anything with
            pathlib's methods, so remote files as well. Each host has a file of its own.
        data: `Source.identity` of the split. What the file says of other data (or of these before they were mended)
            is dropped.
        reads: records wanted so far, without the replacements of bad ones.
        bad_reads: of these, the bad ones; a record counts every time that it comes.
    """

    split: str
    path: Path | None = None
    data: str = ""
    reads: int = 0
    bad_reads: int = 0
    _found: dict[int, tuple[str, str, str]] = dataclasses.field(default_factory=dict)  # record: kind, where, message
    _before: dict[int, tuple[str, str, str]] = dataclasses.field(default_factory=dict)  # as listed by earlier runs
    _written: int = 0  # how many of `_found` the file has

    def __post_init__(self) -> None:
        """Takes up the list of an earlier run: what it met stays listed, but counts only if it is met again."""
        listed = [row for row in self._rows() if row[0] == self.split]
        self._before = {int(record): tuple(rest) for _, record, *rest, data in listed if data == self.data}
        if len(self._before) < len(listed):
            self._written = -1  # the first `settle` drops the lines of other data

    @property
    def counts(self) -> dict[str, int]:
        """Number of different bad records by kind, for the metrics.

        Training logs those of host 0; what the others met is in their own lists. Evaluation counts over all hosts.
        """
        kinds = [kind for kind, _, _ in list(self._found.values())]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def knows(self, record: int) -> bool:
        """Whether the record has been added already."""
        return record in self._found

    def kind(self, record: int) -> int:
        """What is wrong with a record, as its place in KINDS; -1 for one that was not added."""
        return KINDS.index(self._found[record][0]) if record in self._found else -1

    def add(self, record: int, kind: str, where: str, message: str) -> None:
        """Counts a bad record of one of KINDS; `settle` lists it."""
        self._found[record] = (kind, where, message)

    def settle(self, limit: float, size: int) -> None:
        """Lists what was added, and raises UserError if more than the share `limit` of `size` records are bad.

        That is so when so many different ones were met here, or when the reads so far leave no doubt: six standard
        deviations above the limit, which matters where each of many hosts meets only a few: every host decides by what
        it has met itself.
        """
        self._write()
        tolerated = limit * self.reads + 6 * math.sqrt(limit * self.reads + 1)
        if len(self._found) > limit * size or (limit < 1 and self.bad_reads > tolerated):
            kinds = ", ".join(f"{count} x {kind}" for kind, count in self.counts.items())
            listed = f", listed in {self.path}" if self.path else ""
            raise UserError(
                f"{self.split}: {len(self._found)} of {size} records met so far are bad ({kinds}{listed}), more than "
                f"data.max_bad_fraction={limit:g} allows: mend the data or raise the limit"
            )

    def _write(self) -> None:
        if self.path is None or self._written == len(self._found):
            return
        with _writing:
            others = [row for row in self._rows() if row[0] != self.split]
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(others)
            rows = self._before | self._found
            writer.writerows((self.split, record, *found, self.data) for record, found in rows.items())
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(str(self.path), text.getvalue())
        self._written = len(self._found)

    def _rows(self) -> list[list[str]]:
        if self.path is None or not self.path.exists():
            return []
        rows = csv.reader(io.StringIO(self.path.read_text()))
        return [row for row in rows if len(row) == len(_COLUMNS) and row[1].isdecimal()]  # without the header
