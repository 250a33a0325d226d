"""Damages files at random, and reads videos in a child process: a crash or a hang there is a failed test."""

import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TIMEOUT_S = 60  # for one file; a good file of this size takes milliseconds


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns `data` with one to four damages: flipped bits, a cut, or zeroed, repeated, removed or random bytes."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        start, end = sorted(rng.integers(0, len(damaged) + 1, 2))
        end = min(end, start + int(rng.integers(1, 2 + len(damaged) // 4)))
        kind = rng.choice(["flip", "flip head", "cut", "zero", "repeat", "remove", "random"])
        if kind.startswith("flip"):
            limit = min(len(damaged), 2000) if kind == "flip head" else len(damaged)
            for position in rng.integers(0, limit, rng.integers(1, 20)):
                damaged[position] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del damaged[max(start, 100) :]
        elif kind == "zero":
            damaged[start:end] = bytes(end - start)
        elif kind == "repeat":
            damaged[end:end] = damaged[start:end]
        elif kind == "remove":
            del damaged[start:end]
        else:
            damaged[start:end] = rng.bytes(end - start)
        damaged = damaged or bytearray(1)
    return bytes(damaged)


def read_in_child(paths: Sequence[str]) -> dict[str, dict]:
    """What `read_video` returns for each path. Raises AssertionError if the child process crashes or hangs."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.run(
        [sys.executable, __file__], input="\n".join(paths), capture_output=True, text=True, env=environment
    )
    results = {result["path"]: result for result in map(json.loads, child.stdout.splitlines())}
    unread = [path for path in paths if path not in results]
    assert not unread, f"status {child.returncode} at {unread[0]}: {child.stderr[-3000:]}"
    return results


def read_video(path: str) -> dict:
    """Reads a video in all ways. Values: a number of frames, or the message of a VideoError."""
    from dist_jax.video import decoding

    def outcome(read):
        try:
            return int(read())
        except decoding.VideoError as error:
            return str(error)

    count = outcome(lambda: decoding.probe(path).num_frames)
    indices = [0, count // 2, count - 1] if isinstance(count, int) else [0]
    return {
        "path": path,
        "probe": count,
        "iter_frames": outcome(lambda: sum(1 for _ in decoding.iter_frames(path))),
        "decode_frames": outcome(lambda: len(decoding.decode_frames(path, indices))),
        "segment": outcome(lambda: sum(1 for _ in decoding.iter_frames(path, 0.5, 1.0))),
    }


if __name__ == "__main__":
    for line in sys.stdin:
        faulthandler.dump_traceback_later(TIMEOUT_S, exit=True)
        print(json.dumps(read_video(line.rstrip("\n"))), flush=True)
        faulthandler.cancel_dump_traceback_later()
