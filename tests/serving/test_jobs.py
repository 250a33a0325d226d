"""Tests of dist_jax.serving.jobs: admission, and jobs of clients that disconnected."""

import asyncio
import contextlib
import threading

import pytest

from dist_jax.serving.jobs import NUM_WORKERS, JobQueue, Stopped
from dist_jax.serving.limits import RequestError


@pytest.fixture
def jobs():
    with contextlib.closing(JobQueue(max_requests=2)) as jobs:
        yield jobs


def test_more_requests_than_allowed_get_status_503(jobs):
    with jobs.admit(), jobs.admit():
        with pytest.raises(RequestError, match="already has 2 requests") as error, jobs.admit():
            pass
        assert error.value.status == 503
    with jobs.admit():
        pass


def test_a_running_job_is_stopped_and_ends_before_its_cancelled_task(jobs):
    started, ended = threading.Event(), threading.Event()

    def job(stop):
        started.set()
        assert stop.wait(60)
        ended.set()
        raise Stopped

    async def cancel():
        task = asyncio.create_task(jobs.run(job))
        await asyncio.to_thread(started.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ended.is_set()

    assert asyncio.run(cancel())


def test_a_waiting_job_of_a_cancelled_task_never_runs(jobs):
    release, calls = threading.Event(), []

    async def cancel():
        running = [asyncio.create_task(jobs.run(lambda stop: release.wait(60))) for _ in range(NUM_WORKERS)]
        waiting = asyncio.create_task(jobs.run(calls.append))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()
        await asyncio.gather(*running)

    asyncio.run(cancel())
    assert calls == []


def test_errors_of_a_job_reach_its_task_and_timelines_run_one_at_a_time(jobs):
    num_running, most = 0, 0

    def timeline(stop):
        nonlocal num_running, most
        num_running += 1
        most = max(most, num_running)
        stop.wait(0.01)
        num_running -= 1
        return most

    async def run():
        with pytest.raises(ZeroDivisionError):
            await jobs.run(lambda stop: 1 // 0)
        return await asyncio.gather(*(jobs.run(timeline, is_timeline=True) for _ in range(5)))

    assert asyncio.run(run()) == [1] * 5
