"""Tests of reading and writing published .pyth files; they need PyTorch."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import DIST, TEXT, VISION

import dist_jax
from dist_jax import convert
from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, model_directory
from dist_jax.weights.model_files import read_model


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


def published(model):
    return dist_official.to_published(model.dist_params, clip_weights.to_openai(model.clip_model))


def test_the_round_trip_of_a_published_file_is_exact(tmp_path):
    torch = pytest.importorskip("torch")
    state = published(small_models.model())
    source = small_models.write_pyth(tmp_path / "a.pyth", state)
    run("--input", source, "--output", tmp_path / "model")
    run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "b.pyth")
    converted = torch.load(tmp_path / "b.pyth", weights_only=True)["model_state"]
    assert set(converted) == set(state)
    for name, tensor in state.items():
        assert (converted[name].numpy().tobytes(), tuple(converted[name].shape)) == (tensor.tobytes(), tensor.shape), (
            name
        )
    with pytest.raises(UserError, match=r"b\.pyth exists; use another --output"):
        run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "b.pyth")


def test_the_pytorch_reference_loads_the_written_state_strictly(tmp_path):
    torch = pytest.importorskip("torch")
    from helpers import torch_reference

    model_directory.write(tmp_path / "model", small_models.model())
    run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")
    state = torch.load(tmp_path / "x.pyth", weights_only=True)["model_state"]
    torch_reference.Published(VISION, TEXT, DIST).load_state_dict(state, strict=True)


def test_a_published_file_loads_and_converts_with_labels(tmp_path, labels, clip_directory):
    source = small_models.write_pyth(tmp_path / "x.pyth", published(small_models.model()))
    assert dist_jax.load(source).encode_video(small_models.video(1)).shape == (1, 32)
    run("--input", source, "--clip", clip_directory, "--labels", labels, "--output", tmp_path / "model")
    assert dist_jax.load(tmp_path / "model").classify(small_models.video(1)).shape == (1, 3)


def test_a_published_file_with_fewer_layers_than_blocks_needs_layers(tmp_path):
    dist = dataclasses.replace(DIST, layers=(0, 2))
    source = small_models.write_pyth(tmp_path / "x.pyth", published(small_models.model(dist=dist)))
    with pytest.raises(UserError, match=r"has 2 DiST layers, but its CLIP has 3 blocks; .*--layers 1,3"):
        run("--input", source, "--output", tmp_path / "model")
    run("--input", source, "--output", tmp_path / "model", "--layers", "0,2")
    assert model_directory.read(tmp_path / "model").dist == dist
    with pytest.raises(UserError, match="3 blocks, but the network reads block 3"):
        run("--input", source, "--output", tmp_path / "other", "--layers", "0,3")


def test_a_published_file_without_clip_needs_clip(tmp_path, clip_directory):
    state = {name: x for name, x in published(small_models.model()).items() if ".dist_net." in name}
    source = small_models.write_pyth(tmp_path / "x.pyth", state)
    with pytest.raises(UserError, match="without CLIP; set the CLIP weights with --clip"):
        run("--input", source, "--output", tmp_path / "model")
    assert read_model(source, clip=clip_directory).dist == DIST


def test_the_published_format_needs_a_text_tower(tmp_path):
    pytest.importorskip("torch")
    model_directory.write(tmp_path / "model", small_models.model(text=None))
    with pytest.raises(UserError, match="the published format needs a text tower"):
        run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")


def test_sizes_that_the_published_format_does_not_support_are_an_error(tmp_path):
    pytest.importorskip("torch")
    vision = dataclasses.replace(VISION, num_heads=4)
    text = dataclasses.replace(TEXT, activation="gelu")
    model_directory.write(tmp_path / "model", small_models.model(vision=vision, text=text))
    with pytest.raises(
        UserError, match=r"vision num_heads is 4, must be 2; text activation is gelu, must be quick_gelu"
    ):
        run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")
    assert not (tmp_path / "x.pyth").exists()


def test_bfloat16_parameters_keep_their_dtype(tmp_path):
    torch = pytest.importorskip("torch")
    model = small_models.model()
    half = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), model.dist_params)
    model_directory.write(tmp_path / "model", dataclasses.replace(model, dist_params=half))
    run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")
    proj = torch.load(tmp_path / "x.pyth", weights_only=True)["model_state"]["backbone.base_encoder.dist_net.proj"]
    assert proj.dtype == torch.bfloat16
    np.testing.assert_array_equal(proj.float().numpy(), half["proj"].astype(np.float32))


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


def test_a_file_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"model_state": {"dist_net.proj": Trap()}}, tmp_path / "x.pyth")
    with pytest.raises(UserError, match="run code"):
        run("--input", tmp_path / "x.pyth", "--output", tmp_path / "model")
    assert "code was run" not in capsys.readouterr().out
