"""Several hosts: start-up, and the end of all processes with the same message if one of them fails."""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
from jax._src import distributed  # the key-value store of JAX's coordination service has no public interface
from jax.errors import JaxRuntimeError

from dist_jax.errors import UserError

_START_SECONDS = 300  # time for all processes to start
_HEARTBEAT_SECONDS = 60  # JAX ends all processes after this time without a heartbeat from one of them
_POLL_SECONDS = 1.0  # time between checks for a failure on another host
_BARRIER_SECONDS = 5.0  # time that a failed process waits for the others to read its message
_INTERRUPTED = 130  # exit status after SIGINT: 128 + 2
_FAILED = "dist_jax/failed"  # key of the failure message, and name of the barrier after reading it


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Connects this process to all others (`jax.distributed.initialize`). Returns when all have started.

    Args:
        coordinator: HOST:PORT of process 0. None: detected on a TPU pod, under Slurm and on Kubernetes.
        num_processes: number of processes; needed with `coordinator`.
        process_id: number of this process, from 0; needed with `coordinator`.

    Raises:
        UserError: arguments are missing or invalid, or no cluster is detected.
    """
    if coordinator is not None and (num_processes is None or process_id is None):
        raise UserError("--coordinator needs --processes (number of processes) and --process (this one, from 0)")
    if coordinator is not None and not 0 <= process_id < num_processes:
        raise UserError(
            f"--process={process_id}: with --processes={num_processes} it must be from 0 to {num_processes - 1}"
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator={coordinator} has no port; use HOST:PORT, e.g. {coordinator}:1234")
    if coordinator is not None:
        print(
            f"process {process_id} of {num_processes}: waiting for all processes at {coordinator} "
            f"(at most {_START_SECONDS} s)",
            flush=True,
        )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: no TPU pod, Slurm or Kubernetes was found ({error}); "
            "use --coordinator, --processes and --process"
        ) from error


@contextmanager
def share_failures() -> Iterator[None]:
    """If the body raises an error on one host, ends the processes on all hosts with status 1 and the same message.

    An interrupt (Ctrl-C) of one host is such an error; this host ends with status 130, as a single process does.
    SystemExit is not a failure: all hosts raise it at the same point.
    """
    if jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_exit_on_remote_failure, args=(done,), name="share_failures", daemon=True).start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        done.set()
        _report_and_exit(error)
    finally:
        done.set()


def _report_and_exit(error: BaseException) -> None:
    is_interrupt = isinstance(error, KeyboardInterrupt)
    if not isinstance(error, (UserError, KeyboardInterrupt)):
        traceback.print_exception(error)
    print("interrupted" if is_interrupt else f"error: {error}", file=sys.stderr)
    reason = "interrupted" if is_interrupt else f"failed: {str(error) or type(error).__name__}"
    with suppress(JaxRuntimeError):  # another host has already reported a failure
        distributed.global_state.client.key_value_set(_FAILED, f"process {jax.process_index()} {reason}")
    _exit(_INTERRUPTED if is_interrupt else 1)


def _exit_on_remote_failure(done: threading.Event) -> None:
    while not done.wait(_POLL_SECONDS):
        try:
            message = distributed.global_state.client.key_value_try_get(_FAILED)
        except JaxRuntimeError:
            continue  # no failure
        print(f"error: {message}", file=sys.stderr)
        _exit()


def _exit(status: int = 1) -> None:
    """Ends this process with an exit status. JAX's own shutdown would wait for all processes to finish."""
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(JaxRuntimeError):  # a process that has already ended does not reach the barrier
        distributed.global_state.client.wait_at_barrier(_FAILED, round(1000 * _BARRIER_SECONDS))
    os._exit(status)
