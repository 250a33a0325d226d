"""Records that cannot be read: skipped, counted by kind, listed, and too many of them stop the run."""

import csv
import dataclasses
import math
import pathlib

from dist_jax.errors import UserError

_COLUMNS = ("split", "record", "kind", "where", "message")


@dataclasses.dataclass
class Faults:
    """The bad records that this host has met.

    Attributes:
        split: "train" or "val", for the list and the messages.
        path: CSV file that gets a line for every bad record, once, over restarts too; None: no list.
        reads: records wanted so far, without the replacements of bad ones.
        bad_reads: of these, the bad ones; a record counts every time that it comes.
        counts: number of different bad records by kind, for the metrics.
    """

    split: str
    path: pathlib.Path | None = None
    reads: int = 0
    bad_reads: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    _seen: set[int] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        """Takes up the list that an interrupted run left."""
        if self.path and self.path.exists():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["split"] == self.split:
                        self._count(int(row["record"]), row["kind"])

    def knows(self, record: int) -> bool:
        """Whether the record is in the list already."""
        return record in self._seen

    def add(self, record: int, kind: str, where: str, message: str) -> None:
        """Counts and lists a bad record that is not known yet."""
        self._count(record, kind)
        if not self.path:
            return
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(_COLUMNS)
            writer.writerow((self.split, record, kind, where, message))

    def check(self, limit: float, size: int) -> None:
        """Raises UserError if more than the share `limit` (0 to 1) of the split's `size` records are bad.

        That is so when so many different ones were met here, or when the reads so far leave no doubt: six standard
        deviations above the limit, which matters where each of many hosts meets only a few.
        """
        tolerated = limit * self.reads + 6 * math.sqrt(limit * self.reads + 1)
        if len(self._seen) > limit * size or (limit < 1 and self.bad_reads > tolerated):
            kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.counts.items()))
            listed = f", listed in {self.path}" if self.path else ""
            raise UserError(
                f"{self.split}: {len(self._seen)} of {size} records met so far are bad ({kinds}{listed}), more than "
                f"data.max_bad_fraction={limit:g} allows: mend the data or raise the limit"
            )

    def _count(self, record: int, kind: str) -> None:
        self._seen.add(record)
        self.counts[kind] = self.counts.get(kind, 0) + 1
