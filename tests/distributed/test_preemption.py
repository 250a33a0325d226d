"""The preemption notice: it stays set, and all hosts count the same calls."""

import signal

import jax
import pytest

from dist_jax.distributed import preemption


def test_the_notice_stays_set_and_the_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.listen() as notice:
        assert not notice.poll()
        signal.raise_signal(signal.SIGTERM)
        assert [notice.poll(), notice.poll(), notice.received] == [True] * 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_hosts_synchronise_on_the_number_of_the_call(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        preemption.multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or step == 3
    )
    with preemption.listen() as notice:
        assert [notice.poll() for _ in range(6)] == [False, False, False, True, True, True]
    assert asked == [0, 1, 2, 3]  # JAX compares these numbers between hosts: no gaps


def test_the_exit_status_tells_launchers_to_restart():
    with pytest.raises(SystemExit) as left:
        raise preemption.Preempted
    assert left.value.code == 75
