"""A workdir resumes its own run and refuses others."""

import dataclasses
import json
import os

import numpy as np
import pytest

from dist_jax.errors import UserError
from dist_jax.workdir import text_feature_cache
from dist_jax.workdir.run_metadata import (
    RUN_FILE,
    RunMetadata,
    check_can_resume,
    make_workdir,
    read_run_metadata,
    write_run_metadata,
)

RUN = RunMetadata(
    config={
        "seed": 0,
        "batch_size": 16,
        "epochs": 3.0,
        "ema_decay": 0.5,
        "init_from": "",
        "checkpoint": {"best_metric": "top1"},
        "backbone": {"weights": "clip"},
    },
    class_names={"label": ["push", "pull"]},
    backbone={"name": "small CLIP", "fingerprint": "0123456789abcdef"},
    model={"num_frames": 4, "alpha": 2, "layers": [0]},
    num_records=20,
)


def test_a_run_is_read_as_it_was_written(tmp_path):
    assert read_run_metadata(tmp_path) is None
    write_run_metadata(tmp_path / "new", RUN)
    assert read_run_metadata(tmp_path / "new") == RUN
    assert os.listdir(tmp_path / "new") == ["run.json"]
    check_can_resume(tmp_path / "new", dataclasses.replace(RUN, config=RUN.config | {"epochs": 5.0, "ema_decay": 0.9}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backbone": {"name": "other", "fingerprint": "fedcba9876543210"}},
            r"the backbone is other \(fedcba987654\) \(workdir: small CLIP \(0123456789ab\)\)",
        ),
        (
            {"config": RUN.config | {"backbone": {"weights": "clip", "quantize": "int8"}}},
            r"backbone.quantize is 'int8' \(workdir: ''\)",
        ),
        ({"class_names": {"label": ["push", "lift"]}}, r"class 1 is 'lift' \(workdir: 'pull'\)"),
        ({"class_names": {"label": ["push"]}}, r"the number of classes is 1 \(workdir: 2\)"),
        ({"class_names": {"verb": ["push"], "noun": ["cup"]}}, r"the labels are verb, noun \(workdir: label\)"),
        ({"prompt_templates": ["a {}"]}, r"the prompt templates are \['a {}'\] \(workdir: \[\]\)"),
        ({"model": RUN.model | {"num_frames": 8}}, r"model num_frames is 8 \(workdir: 4\)"),
        ({"config": RUN.config | {"seed": 1}}, r"seed is 1 \(workdir: 0\)"),
        ({"config": RUN.config | {"batch_size": 8}}, r"batch_size is 8 \(workdir: 16\)"),
        (
            {"config": RUN.config | {"ema_decay": 0.0}},
            r"ema_decay is 0.0 \(workdir: 0.5\), and a moving average cannot be switched on or off",
        ),
        ({"model": {"num_frames": 4, "alpha": 2}}, r"model layers is None \(workdir: \[0\]\)"),
        ({"num_records": 21}, r"the number of training records is 21 \(workdir: 20\)"),
    ],
)
def test_a_different_run_is_refused_with_both_values(tmp_path, change, message):
    write_run_metadata(tmp_path, RUN)
    with pytest.raises(UserError, match=message) as error:
        check_can_resume(tmp_path, dataclasses.replace(RUN, **change))
    assert "Use another --workdir" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", json.dumps({"format_version": 3, "other": 1}), json.dumps(dataclasses.asdict(RUN) | {"model": 3})],
)
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(UserError, match=r"run.json is not run metadata of dist_jax"):
        read_run_metadata(tmp_path)


@pytest.mark.parametrize(
    ("part", "lacks"), [("config", "ema_decay"), ("backbone", "fingerprint"), ("model", "num_frames")]
)
def test_a_missing_key_is_refused(tmp_path, part, lacks):
    run = dataclasses.asdict(RUN)
    del run[part][lacks]
    (tmp_path / RUN_FILE).write_text(json.dumps(run))
    with pytest.raises(UserError, match=rf"run.json is not run metadata of dist_jax \({lacks} missing\)"):
        read_run_metadata(tmp_path)


@pytest.mark.parametrize("version", [None, 1, 4])
def test_another_format_version_is_refused(tmp_path, version):
    content = dataclasses.asdict(RUN) | {"format_version": version}
    if version is None:  # as written before versions were recorded
        del content["format_version"]
    (tmp_path / RUN_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"run.json has format version {version or 1}, this dist_jax reads 2 and 3"):
        read_run_metadata(tmp_path)


def test_format_version_2_has_one_list_of_class_names(tmp_path):
    content = dataclasses.asdict(RUN) | {"format_version": 2, "class_names": ["push", "pull"]}
    del content["prompt_templates"]
    content["config"]["data"] = {"label_key": "verb"}
    (tmp_path / RUN_FILE).write_text(json.dumps(content))
    metadata = read_run_metadata(tmp_path)
    assert metadata.class_names == {"verb": ["push", "pull"]}
    assert (metadata.format_version, metadata.prompt_templates) == (3, [])


def test_network_conflicts_ignore_the_training():
    other = dataclasses.replace(RUN, class_names={"label": ["a"]}, num_records=1, config=RUN.config | {"seed": 5})
    assert RUN.network_conflicts(other) == []
    assert len(RUN.conflicts(other)) == 3


def test_an_impossible_workdir_is_refused(tmp_path):
    make_workdir(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"^--workdir=.*file.*: cannot create this folder \(.*\); use another$"):
            make_workdir(wrong)


def test_files_of_a_run_that_cannot_be_written_are_errors_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run\.json: cannot be written \(.*\); free space or use another folder"):
        write_run_metadata(tmp_path / "file", RUN)
    with pytest.raises(UserError, match=r"none/text_features\.npz: cannot be written"):
        text_feature_cache.write(tmp_path / "none", RUN, {"label": np.zeros((2, 4), np.float32)})
