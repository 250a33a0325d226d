"""Builds the shards of a job in this process, in worker processes or with Apache Beam, with equal bytes."""

import concurrent.futures
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from typing import NamedTuple

from dist_jax.build_records import shards
from dist_jax.build_records.build_plan import load_plan
from dist_jax.errors import UserError

_NUM_SHOWN = 16  # videos in an error message


class _Shared(NamedTuple):
    """Numbers that the worker processes share with the first process."""

    num_done: Synchronized  # segments that all workers have finished
    num_started: Synchronized  # workers
    current: SynchronizedArray  # by worker: position in the plan of the segment that it reads; -1: none


_shared: _Shared  # in a worker process
_worker: int  # in a worker process: its number, from 0


def run_processes(
    prefix: str, numbers: Sequence[int], num_workers: int, on_progress: Callable[[int], None]
) -> Iterator[shards.ShardReport]:
    """Builds shards of the job `prefix` in worker processes and yields their reports in order of completion.

    Args:
        prefix: OUTPUT/NAME.
        numbers: shard numbers, from 0.
        num_workers: number of processes; 1: everything runs in this process.
        on_progress: called with the number of segments finished since the last call.

    Raises:
        UserError: a shard cannot be written, or a worker was killed. The message names the videos that the workers
            read at that time.
    """
    if min(num_workers, len(numbers)) <= 1:
        for number in numbers:
            yield shards.build_shard(prefix, number, lambda: on_progress(1))
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not work after a fork
    num_workers = min(num_workers, len(numbers))
    shared = _Shared(context.Value("q", 0), context.Value("q", 0), context.Array("q", [-1] * num_workers))
    with concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(shared,)
    ) as pool:
        pending = {pool.submit(_build_in_worker, prefix, number) for number in numbers}
        try:
            yield from _completed(pending, shared.num_done, on_progress)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise _killed(prefix, [position for position in shared.current[:] if position >= 0]) from error
        finally:
            pool.shutdown(cancel_futures=True)


def run_beam(prefix: str, numbers: Sequence[int], runner: str, options: Sequence[str]) -> None:
    """Builds shards of the job `prefix` with a Beam pipeline and waits for its end.

    Remote workers need this package and PyAV: set `--extra_package` or `--sdk_container_image` in the options.

    Args:
        prefix: OUTPUT/NAME, on a file system that all workers can access (gs:// on Dataflow).
        numbers: shard numbers, from 0. Each shard is one element of the pipeline.
        runner: Beam's name of the runner: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner...
        options: options of the runner, --name=value.

    Raises:
        UserError: apache-beam is not installed or does not support the runner, or a worker raised a UserError.
    """
    try:
        import apache_beam as beam  # optional
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"--runner needs Apache Beam ({error}): pip install apache-beam, or remove --runner to use local processes"
        ) from error
    try:
        pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options]))
    except ValueError as error:
        raise UserError(f"--runner={runner}: {error}") from error
    _ = (
        pipeline
        | "Shards" >> beam.Create(list(numbers))
        | "Distribute" >> beam.Reshuffle()
        | "Build" >> beam.Map(_build_element, prefix)
    )
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # the worker's error or a RuntimeError, depending on the runner
        message = _worker_message(f"{type(error).__name__}: {error}")
        if message:
            raise UserError(message) from error
        raise


def _worker_message(runner_message: str) -> str:
    """Extracts the message of a worker's UserError from the traceback in a runner's error; "" if it has none."""
    messages = re.findall(r"UserError: (.+?)(?: \[while running .*)?$", runner_message, re.MULTILINE)
    return messages[-1] if messages else ""


def _build_element(number: int, prefix: str) -> int:
    return shards.build_shard(prefix, number).shard


def _completed(
    pending: set[concurrent.futures.Future], counter: Synchronized, on_progress: Callable[[int], None]
) -> Iterator[shards.ShardReport]:
    reported = 0
    while pending:
        done, pending = concurrent.futures.wait(pending, 0.2, concurrent.futures.FIRST_COMPLETED)
        if (count := counter.value) > reported:
            on_progress(count - reported)
            reported = count
        for future in done:
            yield future.result()


def _killed(prefix: str, positions: Sequence[int]) -> UserError:
    """The error after the end of a worker. `positions` are those of the segments that the workers read at that time."""
    message = f"{prefix}: a worker process was killed, possibly because memory ran out: run again with fewer --workers"
    if positions:
        plan, _ = load_plan(prefix)
        videos = sorted({plan.segments[position].path for position in positions})
        more = f" and {len(videos) - _NUM_SHOWN} more" if len(videos) > _NUM_SHOWN else ""
        message += (
            ". If it happens again, one of the videos that were read may crash the decoder: repair or remove it: "
            f"{', '.join(videos[:_NUM_SHOWN])}{more}"
        )
    return UserError(f"{message} (finished shards are kept)")


def _start_worker(shared: _Shared) -> None:
    global _shared, _worker
    _shared = shared
    with shared.num_started.get_lock():
        _worker = shared.num_started.value
        shared.num_started.value += 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of a worker on Ctrl-C
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _build_in_worker(prefix: str, number: int) -> shards.ShardReport:
    return shards.build_shard(prefix, number, _count_segment, _note_segment)


def _note_segment(position: int) -> None:
    _shared.current[_worker] = position


def _count_segment() -> None:
    _shared.current[_worker] = -1
    with _shared.num_done.get_lock():
        _shared.num_done.value += 1
