"""docs/export.md: its artefacts run without this project, and have the outputs of the model."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import small_models
from helpers.isolated import run_isolated

import dist_jax
from dist_jax import export
from dist_jax.weights import model_directory

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "export.md").read_text()
VIDEO = small_models.video(3)
CLASSES = ("a dog", "a cat", "läuft")
# Runs after the code of the page, for batches of 1 and 3 clips.
SAVE_OUTPUTS = """
import numpy
call = {
    "stablehlo": lambda video: run(params, video),
    "savedmodel": lambda video: run(video=tf.constant(video)),
    "onnx": lambda video: dict(zip(names, session.run(names, {"video": video}))),
}[metadata["format"]]
video = numpy.load("video.npy")
outputs = {f"{name}_{size}": numpy.asarray(value) for size in (1, 3) for name, value in call(video[:size]).items()}
numpy.savez("outputs.npz", **outputs)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model directory of one block, and a video."""
    folder = tmp_path_factory.mktemp("export")
    vision = dataclasses.replace(small_models.VISION, num_layers=1)
    dist = dataclasses.replace(small_models.DIST, layers=(0,), num_pooling_layers=1)
    text = np.random.default_rng(5).standard_normal((3, 32)).astype(np.float32)
    model = dataclasses.replace(
        small_models.model(dist=dist, vision=vision),
        class_names=CLASSES,
        text_features=text / np.linalg.norm(text, axis=1, keepdims=True),
        eval_protocol=small_models.eval_protocol(zero_shot_weight=0.25),
    )
    model_directory.write(folder / "model", model)
    np.save(folder / "video.npy", VIDEO)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    model = dist_jax.load(folder / "model")
    return {
        "probabilities": model.classify(VIDEO, zero_shot_weight=0.25),
        "embedding": model.encode_video(VIDEO),
    }


def export_as_the_page_says(name, folder, monkeypatch):
    (arguments,) = re.findall(rf"python -m dist_jax\.export (.*--format {name} .*)", PAGE)
    monkeypatch.chdir(folder)
    if name != "onnx":
        return export.main(arguments.split())
    # jax2onnx replaces functions of JAX, also of other tests.
    command = [sys.executable, "-m", "dist_jax.export", *arguments.split()]
    return subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "title"), [("stablehlo", "StableHLO"), ("savedmodel", "SavedModel"), ("onnx", "ONNX")]
)
def test_an_artefact_has_the_outputs_of_the_model_without_the_project(name, title, folder, expected, monkeypatch):
    if name == "onnx" and not importlib.util.find_spec("jax2onnx"):
        pytest.skip("jax2onnx is not installed")
    export_as_the_page_says(name, folder, monkeypatch)
    assert (folder / name / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    (code,) = re.findall(rf"## {title}\n+```python\n(.*?)```", PAGE, re.DOTALL)
    process = run_isolated(code + SAVE_OUTPUTS, folder)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() in CLASSES
    outputs = np.load(folder / "outputs.npz")
    for output, values in expected.items():
        for size in (1, 3):
            np.testing.assert_allclose(outputs[f"{output}_{size}"], values[:size], atol=1e-4, err_msg=output)
    metadata = json.loads((folder / name / "metadata.json").read_text())
    assert (metadata["input"]["shape"], metadata["class_names"]) == (["B", 4, 8, 8, 3], list(CLASSES))
    assert metadata["versions"]["dist_jax"] == dist_jax.__version__
    assert not [entry for entry in metadata["preprocessing"] if f"`{entry}`" not in PAGE]


def test_the_isolated_process_cannot_import_the_project(folder):
    process = run_isolated("import dist_jax", folder)
    assert "ModuleNotFoundError: import of dist_jax halted" in process.stderr
