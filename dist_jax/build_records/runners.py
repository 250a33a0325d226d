"""Who builds the shards: this process, worker processes, or Apache Beam. The bytes are the same."""

import concurrent.futures
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized

from dist_jax.build_records import shards
from dist_jax.errors import UserError

_counter = None  # in a worker: clips done by all workers together


def run_processes(
    prefix: str, numbers: Sequence[int], workers: int, on_clips: Callable[[int], None]
) -> Iterator[shards.Report]:
    """Builds the shards `numbers` of the plan at `prefix`, one shard per task, and yields their reports as they end.

    Args:
        prefix: OUTPUT/NAME.
        numbers: shards, from 0.
        workers: processes; with one, everything runs in this process.
        on_clips: called now and then with the number of clips done since the last call.

    Raises:
        UserError: A shard cannot be written, or a worker was killed.
    """
    if min(workers, len(numbers)) <= 1:
        for number in numbers:
            yield shards.build_shard(prefix, number, lambda: on_clips(1))
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    counter = context.Value("q", 0)
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(numbers)), mp_context=context, initializer=_start_worker, initargs=(counter,)
    ) as pool:
        waiting = {pool.submit(_build_in_worker, prefix, number) for number in numbers}
        try:
            yield from _as_they_end(waiting, counter, on_clips)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                f"{prefix}: a worker process was killed, perhaps for want of memory; run again with fewer --workers "
                "(finished shards are kept)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def run_beam(prefix: str, numbers: Sequence[int], runner: str, options: Sequence[str]) -> None:
    """Builds the shards `numbers` of the plan at `prefix` as a Beam pipeline, and waits for its end.

    Remote workers need this package and PyAV: `--extra_package` or `--sdk_container_image` among the options.

    Args:
        prefix: OUTPUT/NAME, on a file system that all of the runner's workers see (gs:// on Dataflow).
        numbers: shards, from 0; one is one element.
        runner: as Beam names it: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner...
        options: the runner's own flags, --name=value.

    Raises:
        UserError: apache-beam is not installed, or does not know the runner; or a worker said what is wrong.
    """
    try:
        import apache_beam as beam  # optional
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "--runner needs Apache Beam: pip install apache-beam; without --runner, worker "
            f"processes do the same job ({error})"
        ) from error
    try:
        pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options]))
    except ValueError as error:
        raise UserError(f"--runner={runner}: {error}") from error
    _ = (
        pipeline
        | "Shards" >> beam.Create(list(numbers))
        | "Spread" >> beam.Reshuffle()
        | "Build" >> beam.Map(_build_element, prefix)
    )
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # of a kind that depends on the runner: what the worker raised, or a RuntimeError
        told = _told_by_worker(f"{type(error).__name__}: {error}")
        if told:
            raise UserError(told) from error
        raise


def _told_by_worker(message: str) -> str:
    """The text of the UserError in a runner's own error, which holds a worker's traceback; empty if there is none."""
    found = re.findall(r"UserError: (.+?)(?: \[while running .*)?$", message, re.MULTILINE)
    return found[-1] if found else ""


def _build_element(number: int, prefix: str) -> int:
    """One element of the pipeline; the report lies beside the shard, so that only the number goes on."""
    return shards.build_shard(prefix, number).number


def _as_they_end(waiting: set, counter: Synchronized, on_clips: Callable[[int], None]) -> Iterator[shards.Report]:
    shown = 0
    while waiting:
        ended, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
        if (done := counter.value) > shown:
            on_clips(done - shown)
            shown = done
        for future in ended:
            yield future.result()


def _start_worker(counter: Synchronized) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback; the parent reports
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _build_in_worker(prefix: str, number: int) -> shards.Report:
    return shards.build_shard(prefix, number, _count)


def _count() -> None:
    with _counter.get_lock():
        _counter.value += 1
