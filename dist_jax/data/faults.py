"""Records that cannot be read: skipped, counted by kind, listed, and too many of them stop the run."""

import csv
import dataclasses
import io
import math
import threading
from pathlib import Path

from dist_jax.data.files import write_text
from dist_jax.errors import UserError

_COLUMNS = ("split", "record", "kind", "where", "message")
_writing = threading.Lock()  # the splits share a file and are read by threads of their own


@dataclasses.dataclass
class Faults:
    """The bad records that this host has met.

    Attributes:
        split: "train" or "val", for the list and the messages.
        path: CSV file that gets a line for every bad record, once, over restarts too; None: no list. Anything with
            pathlib's methods, so remote files as well.
        reads: records wanted so far, without the replacements of bad ones.
        bad_reads: of these, the bad ones; a record counts every time that it comes.
    """

    split: str
    path: Path | None = None
    reads: int = 0
    bad_reads: int = 0
    _found: dict[int, tuple[str, str, str]] = dataclasses.field(default_factory=dict)  # record: kind, where, message
    _written: int = 0

    def __post_init__(self) -> None:
        """Takes up the list that an interrupted run left."""
        own = [row for row in self._rows() if row[0] == self.split]
        self._found = {int(record): tuple(rest) for _, record, *rest in own}
        self._written = len(self._found)

    @property
    def counts(self) -> dict[str, int]:
        """Number of different bad records by kind, for the metrics."""
        kinds = [kind for kind, _, _ in list(self._found.values())]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def knows(self, record: int) -> bool:
        """Whether the record has been added already."""
        return record in self._found

    def add(self, record: int, kind: str, where: str, message: str) -> None:
        """Counts a bad record; `settle` lists it."""
        self._found[record] = (kind, where, message)

    def settle(self, limit: float, size: int) -> None:
        """Lists what was added, and raises UserError if more than the share `limit` of `size` records are bad.

        That is so when so many different ones were met here, or when the reads so far leave no doubt: six standard
        deviations above the limit, which matters where each of many hosts meets only a few.
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
            writer.writerows((self.split, record, *found) for record, found in self._found.items())
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(str(self.path), text.getvalue())
        self._written = len(self._found)

    def _rows(self) -> list[list[str]]:
        if self.path is None or not self.path.exists():
            return []
        return list(csv.reader(io.StringIO(self.path.read_text())))[1:]
