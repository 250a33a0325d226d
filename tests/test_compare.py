"""python -m dist_jax.compare: a table of real runs, incomparable and incomplete runs, invalid commands."""

import csv
import importlib.util
import json
import statistics
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from etils import epath
from helpers import small_models, training_run
from helpers.small_step import HAS_LIBTPU

from dist_jax import compare
from dist_jax.errors import UserError
from dist_jax.evaluation.metrics import compute_metrics
from dist_jax.evaluation.results import Scores, write_results


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> str:
    """The content of run.json for a training of `small_models.model()`."""
    folder = tmp_path_factory.mktemp("compare")
    workdir = small_models.write_workdir(folder / "run", training_run.save_clip(folder / "clip"))
    return (Path(workdir) / "run.json").read_text()


@pytest.fixture
def make_run(tmp_path, run_file):
    """A function that writes a workdir with run.json and one evaluation on random scores."""

    def make(name: str, videos: int = 6, views: int = 2, results: str = "val", classes: int = 3) -> str:
        workdir = tmp_path / name
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "run.json").write_text(run_file)
        rng = np.random.default_rng(0)
        labels = rng.integers(0, classes, videos, dtype=np.int32)
        scores = Scores(rng.random((videos, classes), np.float32), labels, ["x.mp4"] * videos, {})
        file = epath.Path(workdir) / "results" / f"{results}.json"
        summary = {"videos": len(scores.ids), **compute_metrics(scores.scores, scores.labels)}
        names = [f"class {k}" for k in range(classes)]
        write_results(file, scores, summary, names, views, 3, data="val@2", plots=False)
        return str(workdir)

    return make


def change_settings(workdir: str, settings: dict) -> None:
    """Changes settings in run.json, {"mix": {"mixup_alpha": 0}} only this one of `mix`."""
    file = Path(workdir) / "run.json"
    metadata = json.loads(file.read_text())
    for name, value in settings.items():
        is_group = isinstance(value, dict)
        metadata["config"][name] = metadata["config"][name] | value if is_group else value
    file.write_text(json.dumps(metadata))


def table(text: str) -> list[dict[str, str]]:
    """The rows of a Markdown table: column -> cell."""
    header, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in header.strip("|").split("|")]
    return [dict(zip(names, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows]


def notes(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Note: ")]


@pytest.mark.slow
def test_the_row_of_a_training_run(finished_run, tmp_path, capsys):
    workdir, _ = finished_run
    compare.main([str(workdir), "--output", str(tmp_path / "all")])
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "all.md").read_text()
    with (tmp_path / "all.csv").open() as file:
        (exact,) = csv.DictReader(file)
    report = json.loads((workdir / "results" / "val.json").read_text())
    lines = training_run.read_metrics(workdir)
    speeds = [line["clips_per_second"] for line in lines if "clips_per_second" in line]
    assert len(speeds) == training_run.NUM_STEPS
    (row,) = table(printed)
    assert list(row) == list(exact)
    expected = {
        "run": workdir.name,
        "network": "dist",
        "views": "2",
        "videos": str(training_run.NUM_VAL),
        "top1": f"{report['top1']:.1%}",
        "top5": "100.0%",
        "mean_class_accuracy": f"{report['mean_class_accuracy']:.1%}",
        "seconds per step": f"{16 / statistics.median(speeds):.4g}",
        "estimated M cycles per step": "",
        "memory (GiB)": "",  # a CPU does not report it
        "memory is": "",
        "epochs": "8",
    }
    assert {name: row[name] for name in expected} == expected
    assert float(exact["top1"]) == report["top1"]
    assert float(exact["epochs"]) == training_run.NUM_STEPS * 16 / training_run.NUM_TRAIN
    assert not notes(printed)
    assert matplotlib.image.imread(tmp_path / "all.png").shape[1] > 500


def test_parameters_and_operations_of_the_small_model(make_run, capsys):
    compare.main([make_run("a")])
    (row,) = table(capsys.readouterr().out)
    # The parameters of `small_models.model()`. The operations of two frames of five tokens in CLIP, which are most of
    # them: 2 * 2 * 3 blocks * 5 tokens * 12 * 128^2.
    params = small_models.model().dist_params
    assert row["trainable parameters"] == f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
    clip_operations = 2 * 2 * 3 * 5 * 12 * 128**2
    assert clip_operations < 1e9 * float(row["GFLOPs per view"]) < 2 * clip_operations


def test_multi_label_runs_have_their_own_metric_and_empty_cells(make_run, capsys):
    runs = [make_run("single"), make_run("several")]
    report = {"step": 3, "views": 2, "videos": 6, "mean_average_precision": 0.25, "classes": ["a"], "flag": True}
    (Path(runs[1]) / "results" / "val.json").write_text(json.dumps(report))
    compare.main(runs)
    text = capsys.readouterr().out
    first, second = table(text)
    assert (first["mean_average_precision"], second["mean_average_precision"]) == ("", "25.0%")
    assert (first["top5"], second["top5"]) == ("100.0%", "")
    assert "flag" not in first
    assert notes(text) == ["Note: the runs are evaluated on different classes."]


def test_runs_on_different_videos_and_views_get_a_note(make_run, capsys):
    compare.main([make_run("a"), make_run("b", videos=9, views=3), make_run("c")])
    assert notes(capsys.readouterr().out) == [
        "Note: the runs are evaluated on different numbers of videos: 6, 9.",
        "Note: the runs are evaluated on different numbers of views: 2, 3.",
    ]


def test_step_time_is_the_median_and_memory_the_maximum(make_run, capsys):
    workdir = make_run("a")
    lines = [
        {"clips_per_second": speed, "device_memory_peak": 2**30 * peak} for speed, peak in ((1, 3), (64, 5), (128, 4))
    ]
    lines.append({"eval_top1": 0.5})
    (Path(workdir) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    compare.main([workdir])
    (row,) = table(capsys.readouterr().out)
    assert row["seconds per step"] == "4"  # batch size 256
    assert (row["memory (GiB)"], row["memory is"]) == ("5", "measured")


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_with_a_topology_the_compiler_estimates_cycles_and_memory_that_was_not_measured(make_run, capsys):
    settings = {"batch_size": 8, "mix": {"mixup_alpha": 0, "cutmix_alpha": 0}}  # compiles faster than the default
    changes = {"dist": {}, "plain": {"model": {"network": "none"}}, "uneven": {"batch_size": 6}}
    runs = [make_run(name) for name in changes]
    for workdir, change in zip(runs, changes.values(), strict=True):
        change_settings(workdir, settings | change)
    (Path(runs[1]) / "metrics.jsonl").write_text('{"device_memory_peak": 1073741824}\n')
    compare.main([*runs, "--topology=v5e-4"])
    text = capsys.readouterr().out
    dist, plain, uneven = table(text)
    cycles = "estimated M cycles per step"
    assert float(dist[cycles]) > float(plain[cycles]) > 0
    assert dist["memory is"] == "compiled"
    assert 0 < float(dist["memory (GiB)"]) < 1
    assert (plain["memory (GiB)"], plain["memory is"]) == ("1", "measured")
    assert (uneven[cycles], uneven["memory (GiB)"], uneven["memory is"]) == ("", "", "")
    assert "on one chip of v5e-4 (2x2, 4 chips, 1 host), as the TPU compiler estimates them (not measured)" in text
    (note,) = notes(text)
    assert note.startswith("Note: uneven: no cycles: batch_size=6 is not divisible by 4 devices")


def test_a_topology_needs_the_tpu_compiler(make_run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'^the TPU compiler is not installed; run pip install "jax\[tpu\]==[\d.]+"$'):
        compare.main([make_run("a"), "--topology=v5e-8"])


def test_values_that_a_run_does_not_have_are_empty(make_run, tmp_path, capsys):
    workdirs = [make_run("a"), make_run("b")]
    metadata = json.loads((Path(workdirs[0]) / "run.json").read_text())
    metadata["config"]["backbone"]["weights"] = "some/clip"
    (Path(workdirs[0]) / "run.json").write_text(json.dumps(metadata))
    compare.main([*workdirs, "--output", str(tmp_path / "all")])
    text = capsys.readouterr().out
    first, second = table(text)
    assert (first["GFLOPs per view"], first["seconds per step"], first["memory (GiB)"]) == ("", "", "")
    assert first["trainable parameters"] == second["trainable parameters"] != ""
    unknown, missing = notes(text)
    assert unknown.startswith("Note: a: no GFLOPs: backbone.weights=some/clip: its sizes are not known;")
    assert missing == f"Note: not in {tmp_path}/all.png, no accuracy or GFLOPs: a."


def test_without_a_complete_run_there_is_no_plot(make_run, tmp_path, capsys):
    workdir = Path(make_run("a"))
    (workdir / "results" / "val.json").write_text('{"step": 3, "views": 1, "videos": 6}')
    compare.main([str(workdir), "--output", str(tmp_path / "all")])
    assert notes(capsys.readouterr().out)[-1].endswith("all.png is not written: no run has both accuracy and GFLOPs.")
    assert not (tmp_path / "all.png").exists()


def test_an_unknown_network_is_named(make_run, capsys):
    workdir = make_run("a")
    file = Path(workdir) / "run.json"
    file.write_text(file.read_text().replace('"network": "dist"', '"network": "mine"'))
    compare.main([workdir])
    text = capsys.readouterr().out
    assert table(text)[0]["trainable parameters"] == ""
    assert notes(text) == [
        "Note: a: no parameters and GFLOPs: the network 'mine' is not in dist_jax.models.networks.NETWORKS."
    ]


def test_runs_with_the_same_folder_name_are_named_by_their_path(make_run, capsys):
    runs = [make_run("first/run"), make_run("second/run")]
    compare.main(runs)
    assert [row["run"] for row in table(capsys.readouterr().out)] == runs


def test_without_val_the_results_of_the_command_evaluate_are_shown(make_run, capsys):
    compare.main([make_run("trained"), make_run("evaluated", videos=7, results="evaluate")])
    assert [row["videos"] for row in table(capsys.readouterr().out)] == ["6", "7"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], r"^empty has no run\.json; name the --workdir of a training run or an evaluation$"),
        (["run", "--results=zs"], r"^run/results/zs\.json does not exist; use --results with one of other, val$"),
        (["unevaluated"], r"^unevaluated has no results; evaluate it: python -m dist_jax\.main --evaluate$"),
        (["run", "--results=../val"], r"^--results \.\./val: must be the name of a file in RUN/results"),
        (["run", "./run"], r"^the same run is given several times: run, \./run; remove all but one$"),
        (["run", "--topology=v7-8"], r"^--topology=v7-8: unknown; the known TPU slices are v4-8, 16"),
        (["run", "--output=nowhere/all"], r"^nowhere/all\.md: cannot be written"),
        (["damaged"], r"^damaged/results/val\.json is not JSON \(.*\); evaluate again$"),
        (["list"], r"^list/results/val\.json is not an evaluation of dist_jax; evaluate again$"),
        (["log"], r"^log/metrics\.jsonl, line 2: not a JSON object \(.*\); remove this line$"),
    ],
)
def test_invalid_commands_end_with_one_line(make_run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    folder = Path(make_run(arguments[0] if arguments[0] != "empty" else "unused"))
    if arguments[0] == "run":
        make_run("run", results="other")
    elif arguments[0] == "empty":
        Path("empty").mkdir()
    elif arguments[0] == "unevaluated":
        for file in (folder / "results").iterdir():
            file.unlink()
    elif arguments[0] == "log":
        (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n')
    else:
        (folder / "results" / "val.json").write_text({"damaged": '{"top1": 0.', "list": "[1]"}[arguments[0]])
    with pytest.raises(UserError, match=message) as error:
        compare.main(arguments)
    assert "\n" not in str(error.value)
