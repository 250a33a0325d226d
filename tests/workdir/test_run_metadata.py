"""A workdir goes on with the run that it belongs to and refuses others."""

import dataclasses
import json
import os

import pytest

from dist_jax.errors import UserError
from dist_jax.workdir.run_metadata import RUN_FILE, RunMetadata, check_resumes, make_workdir, read_run, write_run

RUN = RunMetadata(
    config={
        "seed": 0,
        "batch_size": 16,
        "epochs": 3.0,
        "ema_decay": 0.5,
        "init_from": "",
        "checkpoint": {"best": "top1"},
        "clip": {"weights": "clip"},
    },
    classes=["push", "pull"],
    backbone={"name": "small CLIP", "fingerprint": "0123456789abcdef"},
    model={"num_frames": 4, "alpha": 2, "layers": [0]},
    records=20,
)


def test_a_run_is_read_as_it_was_written(tmp_path):
    assert read_run(tmp_path) is None
    write_run(tmp_path / "new", RUN)
    assert read_run(tmp_path / "new") == RUN
    assert os.listdir(tmp_path / "new") == ["run.json"]
    check_resumes(tmp_path / "new", dataclasses.replace(RUN, config=RUN.config | {"epochs": 5.0, "ema_decay": 0.9}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backbone": {"name": "other", "fingerprint": "fedcba9876543210"}},
            r"the backbone is other \(fedcba987654\), the workdir's small CLIP \(0123456789ab\)",
        ),
        ({"classes": ["push", "lift"]}, "class 1 is 'lift', the workdir's 'pull'"),
        ({"classes": ["push"]}, "there are 1 classes, in the workdir's run 2"),
        ({"model": RUN.model | {"num_frames": 8}}, "model num_frames is 8, the workdir's 4"),
        ({"config": RUN.config | {"seed": 1}}, "seed is 1, the workdir's 0"),
        ({"config": RUN.config | {"batch_size": 8}}, "batch_size is 8, the workdir's 16"),
        (
            {"config": RUN.config | {"ema_decay": 0.0}},
            "ema_decay is 0.0, the workdir's 0.5: it keeps an average or none",
        ),
        ({"model": {"num_frames": 4, "alpha": 2}}, r"model layers is None, the workdir's \[0\]"),
        ({"records": 21}, "there are 21 training records, in the workdir's run 20"),
    ],
)
def test_another_run_is_refused_with_both_sides_named(tmp_path, change, message):
    write_run(tmp_path, RUN)
    with pytest.raises(UserError, match=message) as error:
        check_resumes(tmp_path, dataclasses.replace(RUN, **change))
    assert "Give another --workdir" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", json.dumps({"config": {}, "other": 1}), json.dumps(dataclasses.asdict(RUN) | {"model": 3})],
)
def test_a_file_that_is_no_run_is_refused(tmp_path, text):
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(UserError, match=r"run.json is not a run of dist_jax"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("part", "lacks"), [("config", "ema_decay"), ("backbone", "fingerprint"), ("model", "num_frames")]
)
def test_a_run_that_lacks_a_key_is_refused(tmp_path, part, lacks):
    run = dataclasses.asdict(RUN)
    del run[part][lacks]
    (tmp_path / RUN_FILE).write_text(json.dumps(run))
    with pytest.raises(UserError, match=rf"run.json is not a run of dist_jax \({lacks} missing\)"):
        read_run(tmp_path)


def test_the_network_alone_may_be_asked_for():
    other = dataclasses.replace(RUN, classes=["a"], records=1, config=RUN.config | {"seed": 5})
    assert RUN.network_conflicts(other) == []
    assert len(RUN.conflicts(other)) == 3


def test_a_workdir_that_cannot_be_is_refused(tmp_path):
    make_workdir(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"^--workdir=.*file.*: cannot be made a folder \(.*\); give another$"):
            make_workdir(wrong)
