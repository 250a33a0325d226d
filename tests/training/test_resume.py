"""metrics.jsonl of resumed runs: its lines are those of a run without interruption."""

import shutil
from pathlib import Path

import pytest
from helpers import small_records
from helpers.training_run import NUM_STEPS, NUM_TRAIN, preemption_at, read_metrics, reproducible_metrics, run

from dist_jax.training import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


@pytest.fixture(scope="module")
def inside_intervals(training_data, tmp_path_factory) -> tuple[Path, dict[str, object]]:
    """The workdir and the settings of a run that saves inside log intervals, and reads an unreadable record."""
    folder = tmp_path_factory.mktemp("inside_intervals")
    examples = [small_records.example(number) for number in range(NUM_TRAIN - 1)]
    changes = {
        "data__train": small_records.write_shards(folder, [b"no example", *examples], 1),
        "data__class_names_file": str(training_data / "labels.txt"),
        "data__max_bad_fraction": 1.0,
        "log__every_steps": 4,
        "checkpoint__save_every_steps": 3,
        "checkpoint__max_to_keep": 10,
    }
    run(training_data, folder / "run", **changes)
    return folder / "run", changes


@pytest.mark.parametrize("saved_step", [3, 9])
def test_metrics_of_a_killed_and_resumed_run_equal_those_of_an_undisturbed_run(
    training_data, inside_intervals, tmp_path, saved_step
):
    undisturbed, changes = inside_intervals
    assert [line["step"] for line in read_metrics(undisturbed)] == [4, 5, 8, NUM_STEPS, NUM_STEPS]
    assert all(line["bad_record"] == 1 for line in read_metrics(undisturbed) if "loss" in line)
    # A kill after the last log leaves an older checkpoint and lines of later steps.
    killed = shutil.copytree(undisturbed, tmp_path / "killed")
    for folder in (killed / "checkpoints").iterdir():
        if int(folder.name) > saved_step:
            shutil.rmtree(folder)
    run(training_data, killed, **changes)
    assert reproducible_metrics(killed) == reproducible_metrics(undisturbed)


def test_metrics_of_a_preempted_and_resumed_run_equal_those_of_an_undisturbed_run(
    training_data, inside_intervals, tmp_path
):
    undisturbed, changes = inside_intervals
    for step in (2, 3):  # both inside the first interval
        with pytest.raises(train.Preempted), preemption_at(4 if step == 2 else 3):
            run(training_data, tmp_path, **changes)
        assert [line["step"] for line in read_metrics(tmp_path)] == [step]
    run(training_data, tmp_path, **changes)
    assert reproducible_metrics(tmp_path) == reproducible_metrics(undisturbed)
