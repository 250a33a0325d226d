"""python -m scripts.bench_step: invalid commands end with one line; a small model is measured or estimated."""

import json

import pytest
from helpers import training_run
from helpers.small_step import CONFIG, HAS_LIBTPU, assert_one_line, small_run

# Name -> (flags, expected part of the message).
INVALID = {
    "no configuration": ([], "--config is missing; for example --config=configs/k400_vitb.py"),
    "unknown program": ([CONFIG, "--programs=training"], "--programs=training: must be some of frozen forward, train"),
    "no program": ([CONFIG, "--programs="], "must be some of frozen forward, train, full fine-tuning"),
    "no steps": ([CONFIG, "--steps=0"], "steps"),
    "unknown topology": ([CONFIG, "--topology=v7-8"], "--topology=v7-8: unknown; the known TPU slices are v4-8, 16"),
    "folder of the plot": ([CONFIG, "--png=no/such/x.png"], "--png=no/such/x.png: this folder does not exist"),
    "folder of the JSON": ([CONFIG, "--json=no/such/x.json"], "--json=no/such/x.json: this folder does not exist"),
}


@pytest.fixture(scope="module")
def outcomes():
    """Name -> exit status and output."""
    results = training_run.run_mains([flags for flags, _ in INVALID.values()], module="scripts.bench_step")
    return dict(zip(INVALID, results, strict=True))


@pytest.mark.xdist_group("bench_step")  # one process runs the commands of the fixture
@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_command_is_refused_with_one_line(name, outcomes):
    assert_one_line(outcomes[name], INVALID[name][1])


@pytest.mark.slow
def test_a_small_model_is_measured(tmp_path):
    flags = [flag for flag in small_run(tmp_path / "clip") if "topology" not in flag]
    flags += ["--programs=frozen forward", "--steps=2", f"--json={tmp_path}/x.json", f"--png={tmp_path}/x.png"]
    ((status, output),) = training_run.run_mains([flags], module="scripts.bench_step")
    assert status == 0, output
    header, peak, _, columns, row = output.splitlines()[-5:]
    assert header.startswith("cpu, batch_size=8")
    assert "(measured: product of 2048 x 2048 matrices, float32)" in peak
    assert len(columns) == len(row)
    report = json.loads((tmp_path / "x.json").read_text())
    assert [len(program["seconds"]) for program in report["programs"]] == [2]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_a_small_model_is_estimated_for_a_tpu(tmp_path):
    flags = [*small_run(tmp_path / "clip"), "--programs=frozen forward", "--rows=3", f"--json={tmp_path}/x.json"]
    ((status, output),) = training_run.run_mains([flags], module="scripts.bench_step")
    assert status == 0, output
    assert "Cycles are estimates of the TPU compiler, not measurements" in output
    (row,) = json.loads((tmp_path / "x.json").read_text())["programs"]
    assert sum(row["by_module"].values()) == row["cycles"]
    assert row["by_module"]["frozen tower"] > 0.5 * row["cycles"]
    assert len(row["instructions"]) == 3
    assert all(item["source"].startswith("dist_jax/") for item in row["instructions"])
