"""Hours, input rate and data sizes of a run, from the cycles of its step."""

import math

import ml_collections
import pytest

from dist_jax import config
from dist_jax.cost import cycles, datasets
from dist_jax.cost.chips import parse_slice
from dist_jax.cost.collectives import Collective
from dist_jax.cost.run_estimate import RunEstimate, collective_seconds, collective_summary


def row(module: str, num_cycles: int, op_name: str = "") -> cycles.InstructionCycles:
    return cycles.InstructionCycles("name", "f32[]", num_cycles, 1, module, op_name, "")


@pytest.fixture
def estimate() -> RunEstimate:
    """A step of 256 clips of 16 frames in two seconds on v5e-64; half of it is the forward pass."""
    rows = [
        row(cycles.TOWER, 1_000_000_000),
        row(cycles.POOLING, 500_000_000),
        row(cycles.POOLING, 500_000_000, "transpose(jvp(DistNetwork))"),
        row(cycles.REST, 1_000_000_000),
    ]
    found = cycles.Cycles(3_000_000_000, {}, rows, {})
    return RunEstimate(ml_collections.FrozenConfigDict(config.defaults()), parse_slice("v5e-64"), found)


def test_rates_follow_from_cycles_and_clock(estimate):
    assert estimate.step_seconds == 2.0
    assert estimate.clips_per_second == 128.0
    assert estimate.frames_per_host == 128 * 16 / 16
    assert estimate.forward_seconds == 1.0


def test_hours_count_all_steps_and_all_views_of_all_evaluations(estimate):
    assert estimate.training_hours(256_000) == pytest.approx(36 * 1000 * 2 / 3600)
    evaluated_clips = 36 * 1024 * 3
    assert estimate.evaluation_hours(256_000, 1024) == pytest.approx(evaluated_clips / 256 / 3600)


def test_collectives_are_summed_by_kind():
    found = [Collective("all-reduce", 3, (), 4_000_000, ""), Collective("all-gather", 1, (), 1_000_000, "")]
    found.append(Collective("all-reduce", 1, (), 2_000_000, ""))
    assert collective_summary(found) == "4 all-reduce (6.0 MB), 1 all-gather (1.0 MB)"
    assert collective_summary([]) == "none"
    assert math.isclose(collective_seconds(found, parse_slice("v5e-64")), 13e6 / 200e9)


@pytest.mark.parametrize(
    ("path", "train_videos"),
    [
        ("data/k710/train@1024", 658_340),
        ("gs://bucket/k400/train@256", 240_436),
        ("data/ssv2/train@128", 168_913),
        ("data/mine/train@8", None),
        ("data/k400_small/train@8", None),
        ("", None),
    ],
)
def test_a_public_data_set_is_known_by_its_folder(path, train_videos):
    found = datasets.find(path)
    assert (found and found.train_videos) == train_videos
