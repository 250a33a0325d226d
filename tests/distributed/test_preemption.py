"""A notice to stop: it stays, and several hosts count their calls alike."""

import signal

import jax
import pytest

from dist_jax.distributed import preemption


def test_a_notice_stays_and_the_handler_goes():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.listening() as notice:
        assert not notice()
        signal.raise_signal(signal.SIGTERM)
        assert [notice(), notice(), notice.come] == [True] * 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_several_hosts_are_asked_with_the_number_of_the_call(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        preemption.multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or step == 3
    )
    with preemption.listening() as notice:
        assert [notice() for _ in range(6)] == [False, False, False, True, True, True]
    assert asked == [0, 1, 2, 3]  # JAX compares these over the hosts: none may be left out


def test_the_exit_status_is_the_one_to_start_again_on():
    with pytest.raises(SystemExit) as left:
        raise preemption.Preempted
    assert left.value.code == 75
