"""Tests of the export of models other than DiST, and of exports that are refused. tests/docs runs the artefacts."""

import dataclasses
import importlib.metadata
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models
from jax import export as jax_export
from safetensors.flax import load_file

import dist_jax
from dist_jax import export
from dist_jax.errors import UserError
from dist_jax.exporting import formats, onnx, stablehlo
from dist_jax.exporting.program import ClipProgram, make_program
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_directory

VISION = dataclasses.replace(small_models.VISION, num_layers=1)
VIDEO = small_models.video(2)


@pytest.fixture(scope="module")
def clip_directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("formats") / "clip"
    clip_weights.save_huggingface(small_models.clip_model(vision=VISION), path)
    small_models.write_tokenizer(path)
    return path


@pytest.fixture
def arguments(tmp_path):
    """Arguments of an export to StableHLO without --model."""
    return ["--format", "stablehlo", "--output", str(tmp_path / "out")]


def run(directory, video):
    """The outputs of an artefact in the format stablehlo."""
    program = jax_export.deserialize(bytearray((directory / stablehlo.PROGRAM).read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    return jax.jit(program.call)(load_file(directory / stablehlo.PARAMS), video)


@pytest.mark.slow
def test_plain_clip_with_labels(clip_directory, arguments, tmp_path):
    export.main(["--model", str(clip_directory), "--labels", "a b,c", *arguments])
    video = small_models.video(1, dataclasses.replace(small_models.DIST, num_frames=8))
    outputs, model = run(tmp_path / "out", video), dist_jax.load(clip_directory)
    np.testing.assert_allclose(outputs["probabilities"], model.classify(video, ["a b", "c"]), atol=1e-5)
    np.testing.assert_allclose(outputs["embedding"], model.encode_video(video), atol=1e-5)
    assert (tmp_path / "out" / "labels.txt").read_text() == "a b\nc\n"


def test_one_label_of_a_probe_has_no_embedding(clip_directory, arguments, tmp_path):
    labels = {"verb": ["cut", "wash"], "noun": ["pan", "cup", "egg"]}
    workdir = small_models.write_workdir(
        tmp_path / "run", str(clip_directory), "linear_probe", labels, layers=[0], resolution=8
    )
    export.main(["--model", workdir, "--label-key", "noun", *arguments])
    outputs = run(tmp_path / "out", VIDEO)
    expected = dist_jax.load(workdir, label="noun").classify(VIDEO)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert list(metadata["outputs"]) == list(outputs) == ["probabilities"]
    assert metadata["class_names"] == labels["noun"]


def test_a_quantised_tower_and_several_labels_per_clip(clip_directory, tmp_path):
    model = dist_jax.load(clip_directory, quantize="int8", num_frames=4)
    text = jnp.eye(2, 32)
    program = make_program(model.classifier(text)._replace(multi_label=True))
    assert {value.dtype.name for value in program.params.values()} == {"float32", "int8"}
    stablehlo.write(program, {}, tmp_path)
    probabilities = run(tmp_path, VIDEO)["probabilities"]
    # Sums in another order can move a quantised activation by one step.
    np.testing.assert_allclose(probabilities, jax.nn.sigmoid(model.logits(VIDEO, text)), atol=5e-3)
    with pytest.raises(UserError, match="ONNX Runtime has no matrix products for its int8 image tower"):
        onnx.write(program, {}, tmp_path)


def test_parameters_that_safetensors_does_not_read_are_an_error(tmp_path):
    params = {"kernel": np.zeros(2, jnp.float8_e4m3fn)}
    program = ClipProgram(params, jax.ShapeDtypeStruct((1,), jnp.uint8), lambda params, clip: {})
    with pytest.raises(UserError, match="does not read float8_e4m3fn parameters; use --format savedmodel"):
        stablehlo.write(program, {}, tmp_path)


def test_a_model_without_class_names_is_an_error(arguments, tmp_path):
    model_directory.write(tmp_path / "model", small_models.model())
    with pytest.raises(UserError, match="model has no class names; use --labels"):
        export.main(["--model", str(tmp_path / "model"), *arguments])
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_empty_is_an_error(arguments, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(UserError, match=r"out exists and is not empty; use another --output"):
        export.main(["--model", "nowhere", *arguments])


def test_a_format_without_its_library_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(
        UserError, match=r"--format onnx: jax2onnx is not installed; pip install --editable '\.\[export\]'"
    ):
        formats.write(tmp_path / "out", "onnx", None, ["a"], None)


def test_an_operation_that_jax2onnx_does_not_know_is_an_error_in_one_line(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise NotImplementedError("no plugin\nfor this")

    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.0")
    monkeypatch.setitem(sys.modules, "jax2onnx", type("Module", (), {"to_onnx": refuse}))
    monkeypatch.setitem(sys.modules, "onnx_ir", type("Module", (), {}))
    monkeypatch.setitem(sys.modules, "onnx_ir.passes", type("Module", (), {"common": None}))
    program = ClipProgram({}, jax.ShapeDtypeStruct((1,), jnp.uint8), lambda params, clip: {"probabilities": clip})
    with pytest.raises(UserError, match=r"to ONNX \(jax2onnx 1\.0: no plugin\); use --format stable"):
        onnx.write(program, {}, tmp_path)
