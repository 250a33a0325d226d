"""Several hosts as one system: joining them, and ending all of them with the message of the one that failed."""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
from jax._src import distributed  # JAX shows the key-value store of its coordination service nowhere else
from jax.errors import JaxRuntimeError

from dist_jax.errors import UserError

_JOIN_SECONDS = 300  # that processes have to start in
_HEARTBEAT_SECONDS = 60  # without a sign of life after which JAX ends everyone: a host that died has no message
_LOOK_SECONDS = 1.0  # between looks for the message of a failed host
_TELL_SECONDS = 5.0  # that a failed host waits until the others have its message
_FAILED = "dist_jax/failed"  # key of the message, and name of the barrier at which all have read it


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes one system of all processes; returns when all are there.

    Args:
        coordinator: HOST:PORT of process 0; None: found by itself on a TPU pod, under Slurm and Kubernetes.
        processes: how many there are.
        process: number of this one, from 0.

    Raises:
        UserError: if these three are not complete, or nothing is found.
    """
    if coordinator is not None and (processes is None or process is None):
        raise UserError("--coordinator needs --processes (how many) and --process (which one, from 0)")
    if coordinator is not None and not 0 <= process < processes:
        raise UserError(f"--process={process}: with --processes={processes} it must be from 0 to {processes - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator={coordinator} has no port; give HOST:PORT, e.g. {coordinator}:1234")
    if coordinator is not None:
        print(
            f"process {process} of {processes}, waiting for all at {coordinator} (at most {_JOIN_SECONDS} s)",
            flush=True,
        )
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: no TPU pod, Slurm or Kubernetes was found ({error}); "
            "give --coordinator, --processes and --process"
        ) from error


@contextmanager
def failing_together() -> Iterator[None]:
    """Ends the processes on all hosts with status 1 when what runs inside fails on one, and says there why.

    An exit (SystemExit) is no failure: it happens on all hosts alike.
    """
    if jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_end_with_others, args=(done,), name="hosts", daemon=True).start()
    try:
        yield
    except Exception as error:
        done.set()
        _end(error)
    finally:
        done.set()


def _end(error: Exception) -> None:
    """Tells the other hosts and ends this process: leaving in JAX's own way waits for all to come to their end."""
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    message = f"process {jax.process_index()} failed: {str(error) or type(error).__name__}"
    with suppress(JaxRuntimeError):  # another host was first
        distributed.global_state.client.key_value_set(_FAILED, message)
    _leave()


def _end_with_others(done: threading.Event) -> None:
    while not done.wait(_LOOK_SECONDS):
        try:
            message = distributed.global_state.client.key_value_try_get(_FAILED)
        except JaxRuntimeError:
            continue  # none has failed
        print(f"error: {message}", file=sys.stderr)
        _leave()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(JaxRuntimeError):  # a host that is gone already does not come
        distributed.global_state.client.wait_at_barrier(_FAILED, round(1000 * _TELL_SECONDS))
    os._exit(1)
