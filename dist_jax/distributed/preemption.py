"""SIGTERM, the notice that a machine will be taken away: all hosts learn of it at the same point and leave there."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

PREEMPTED = 75  # exit status (EX_TEMPFAIL) after a SIGTERM: "start me again"


class Preempted(SystemExit):
    """A SIGTERM came; what there was to save is saved."""

    def __init__(self) -> None:
        """With the status that launchers restart on."""
        super().__init__(PREEMPTED)


class PreemptionNotice:
    """Says whether this run is to save and leave now; once it is, it stays so.

    With several hosts the notice comes through JAX's coordination service, which takes the calls' numbers for steps and
    has all hosts leave at the same call: they must call equally often, between the same computations of all.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.come = False
        self._calls = 0

    def __call__(self) -> bool:
        """Asks."""
        if jax.process_count() > 1 and not self.come:
            self.come = multihost_utils.reached_preemption_sync_point(self._calls)
            self._calls += 1
        return self.come


@contextmanager
def listening() -> Iterator[PreemptionNotice]:
    """Gives the PreemptionNotice; inside, a SIGTERM no longer ends the process."""
    notice = PreemptionNotice()
    if jax.process_count() > 1:  # JAX listens since the hosts joined
        yield notice
        return

    def take(*_: object) -> None:
        notice.come = True

    before = signal.signal(signal.SIGTERM, take)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)
