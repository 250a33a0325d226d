"""Preemption: SIGTERM announces that the machine stops soon. All hosts stop the run at the same step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

PREEMPTED = 75  # exit status (EX_TEMPFAIL) after a SIGTERM: launchers restart the command


class Preempted(SystemExit):
    """The run stops after a SIGTERM, with its state saved. Exit status: PREEMPTED."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class PreemptionNotice:
    """Whether this run must save and stop. Once set, it stays set.

    On several hosts, JAX's coordination service distributes the notice, and all hosts see it at the same `poll`
    call. So all hosts must call `poll` equally often, between the same global computations.

    Attributes:
        received: the result of the last `poll` call.
    """

    def __init__(self) -> None:
        self.received = False
        self._num_calls = 0

    def poll(self) -> bool:
        """Whether a notice has arrived; equal on all hosts."""
        if jax.process_count() > 1 and not self.received:
            self.received = multihost_utils.reached_preemption_sync_point(self._num_calls)
            self._num_calls += 1
        return self.received


@contextmanager
def listen() -> Iterator[PreemptionNotice]:
    """Yields the PreemptionNotice. Inside, a SIGTERM sets the notice and does not end the process."""
    notice = PreemptionNotice()
    if jax.process_count() > 1:  # JAX handles SIGTERM itself after jax.distributed.initialize
        yield notice
        return

    def receive(*_: object) -> None:
        notice.received = True

    previous_handler = signal.signal(signal.SIGTERM, receive)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
