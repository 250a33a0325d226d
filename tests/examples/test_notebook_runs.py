"""The Colab notebook runs from the first to the last cell: without network, on small models. It needs PyTorch."""

import json
import os

import numpy as np
import pytest
from helpers import small_models
from helpers.compile_flags import FAST_COMPILE
from helpers.launchers import ROOT

from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official
from examples.demo import render_videos, scenes

pytest.importorskip("torch")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

SHOW_ZERO_SHOT = "print(json.dumps(dict(zip(prediction.class_names, prediction.probabilities.tolist()))))"
FIGURES = {"zero-shot": 1, "training": 1, "report": 1, "timeline": 1, "attention": 1, "convert": 2}  # by cell


def write_downloads(folder):
    """Small files in place of the downloads. Returns the settings that name them."""
    model = small_models.model()
    clip_weights.save_huggingface(model.clip_model, folder / "clip")
    small_models.write_tokenizer(folder / "clip")
    tensors = dist_official.to_published(model.dist_params, clip_weights.to_openai(model.clip_model))
    (folder / "names.txt").write_text("\n".join(small_models.CLASSES))
    render_videos.write_mp4(str(folder / "video.mp4"), render_videos.render_clip("train", 0, "moving up", seed=1))
    return {
        "CLIP": folder / "clip",
        "VIDEO": folder / "video.mp4",
        "LABELS": ", ".join(small_models.CLASSES),
        "CHECKPOINT": small_models.write_pyth(folder / "published.pyth", tensors),
        "CHECKPOINT_LABELS": folder / "names.txt",
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The executed cells by id, and the output folder."""
    folder = tmp_path_factory.mktemp("notebook")
    settings = {
        **write_downloads(folder),
        "ACCELERATOR": "cpu",
        "TRAIN_VIDEOS": 16,
        "CLIP_STEPS": 2,
        "EPOCHS": 2,
        "OUTPUT": folder / "output",
    }
    environment = {
        **os.environ,
        **{f"DIST_JAX_{name}": str(value) for name, value in settings.items()},
        "XLA_FLAGS": FAST_COMPILE,
        "XDG_CACHE_HOME": str(folder / "cache"),  # compiled programs, shared by the commands
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
    }
    notebook = nbformat.read(ROOT / "examples/dist_jax.ipynb", as_version=4)
    nbformat.validate(notebook)
    notebook.cells.append(nbformat.v4.new_code_cell(SHOW_ZERO_SHOT, id="last"))
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute(env=environment)
    return {cell["id"]: cell for cell in notebook.cells}, folder / "output"


def outputs(cell):
    """Text and number of pictures that a cell shows."""
    text = "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")
    return text, sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def assert_probabilities(values, num_classes):
    assert len(values) == num_classes
    assert np.all(np.asarray(values) >= 0)
    np.testing.assert_allclose(np.sum(values), 1, rtol=1e-4)


def test_every_figure_is_shown(finished):
    cells, _ = finished
    shown = {name: outputs(cell)[1] for name, cell in cells.items() if cell["cell_type"] == "code"}
    assert {name: count for name, count in shown.items() if count} == FIGURES


def test_plain_clip_gives_probabilities_of_the_typed_labels(finished):
    probabilities = json.loads(outputs(finished[0]["last"])[0])
    assert set(probabilities) == set(small_models.CLASSES)
    assert_probabilities(list(probabilities.values()), 3)


def test_the_training_completes_its_steps(finished):
    cells, output = finished
    last = json.loads((output / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 16 * 2 // 16  # videos, epochs, batch
    assert "step 2/2" in outputs(cells["training"])[0]


def test_the_timeline_has_probabilities_of_the_eight_motions(finished):
    timeline = json.loads((finished[1] / "timeline.json").read_text())
    assert timeline["windows"]
    for window in timeline["windows"]:
        assert_probabilities(window["probabilities"], len(scenes.MOTIONS))


def test_the_published_checkpoint_is_converted_and_classifies_the_video(finished):
    (prediction,) = json.loads((finished[1] / "published.json").read_text())
    assert {row["label"] for row in prediction["predictions"]} == set(small_models.CLASSES)
    assert_probabilities([row["probability"] for row in prediction["predictions"]], 3)
