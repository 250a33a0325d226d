"""Tests of initial parameters from another network: interpolation along time, equality of all other sizes."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import DIST
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, model_directory, table
from dist_jax.weights.init_from import adapt, interpolate, load_initial

BACKBONE = {"name": "small CLIP", "fingerprint": f"{0:064}"}  # of small_models.model()


def load(path, target, backbone=BACKBONE, same_backbone=True):
    return load_initial(path, "dist", target, backbone, same_backbone)


def test_half_the_frames_are_averages_of_neighbours():
    np.testing.assert_array_equal(interpolate(np.array([1.0, 3.0, 10.0, 20.0]), 2, 0), [2, 15])


def test_twice_the_frames_are_at_quarter_positions():
    np.testing.assert_array_equal(interpolate(np.array([0.0, 4.0]), 4, 0), [0, 1, 3, 4])


def test_a_quarter_of_the_frames_is_between_the_middle_frames():
    np.testing.assert_array_equal(interpolate(np.arange(8.0), 2, 0), [1.5, 5.5])


@given(old=st.integers(1, 9), new=st.integers(1, 9))
def test_interpolation_stays_in_the_old_range_and_keeps_constants_and_dtype(old, new):
    values = np.random.default_rng(old).standard_normal((2, old, 3)).astype(np.float32)
    result = interpolate(values, new, 1)
    assert (result.shape, result.dtype) == ((2, new, 3), np.float32)
    assert np.all(result <= values.max(axis=1, keepdims=True) + 1e-6)
    assert np.all(result >= values.min(axis=1, keepdims=True) - 1e-6)
    np.testing.assert_array_equal(interpolate(values, old, 1), values)
    np.testing.assert_array_equal(interpolate(np.full((1, old), 2.5, np.float32), new, 1), np.full((1, new), 2.5))


@pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 1), (32, 8), (8, 32), (5, 7), (7, 5)])
def test_interpolation_equals_pytorch(old, new):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(old).standard_normal((2, 3, old)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values), size=new, mode="linear", align_corners=False)
    np.testing.assert_allclose(interpolate(values, new, 2), expected.numpy(), atol=1e-6)


def test_only_parameters_with_frames_change():
    target = dataclasses.replace(DIST, num_frames=8)
    params = small_models.model().dist_params
    adapted = adapt(params, DIST, target)
    shapes = dist_official.param_shapes(target)
    for path, leaf in table.flatten(adapted).items():
        assert leaf.shape == shapes[path], path
        if path not in ("layers/class_token", "pooling/positions"):
            np.testing.assert_array_equal(leaf, table.flatten(params)[path])
    token = params["layers"]["class_token"]  # [L, 2, C] -> [L, 4, C]
    np.testing.assert_allclose(
        adapted["layers"]["class_token"][:, 1], 0.75 * token[:, 0] + 0.25 * token[:, 1], atol=1e-6
    )


def test_the_projection_is_repeated_for_every_label():
    params = small_models.model().dist_params
    two = adapt(params, DIST, dataclasses.replace(DIST, num_labels=2))
    np.testing.assert_array_equal(two["proj"], np.concatenate([params["proj"], params["proj"]], axis=1))
    jax.tree.map(np.testing.assert_array_equal, two["layers"], params["layers"])
    assert two["proj"].shape == dist_official.param_shapes(dataclasses.replace(DIST, num_labels=2))["proj"]
    with pytest.raises(UserError, match="num_labels is 2, must be 1"):
        adapt(two, dataclasses.replace(DIST, num_labels=2), DIST)


def test_frames_and_labels_change_together():
    target = dataclasses.replace(DIST, num_frames=8, num_labels=3)
    adapted = table.flatten(adapt(small_models.model().dist_params, DIST, target))
    assert {path: leaf.shape for path, leaf in adapted.items()} == dict(dist_official.param_shapes(target))


def test_the_network_must_be_the_same(tmp_path):
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    probe = small_models.write_workdir(tmp_path / "run", str(tmp_path / "clip"), network="linear_probe")
    model_directory.write(tmp_path / "model", small_models.model())
    dist = small_models.video_model("linear_probe").dist
    fingerprint = clip_weights.load(str(tmp_path / "clip")).fingerprint
    params = load_initial(probe, "linear_probe", dist, BACKBONE | {"fingerprint": fingerprint}, same_backbone=True)
    assert params["classifier"]["kernel"].shape == (128, 3)
    for path, network, other in (
        (probe, "dist", "linear_probe"),
        (probe, "attentive_probe", "linear_probe"),
        (tmp_path / "model", "linear_probe", "dist"),
    ):
        message = f"init_from={path}: it contains the network {other}, but model.network is {network}"
        with pytest.raises(UserError, match=message):
            load_initial(path, network, dist, BACKBONE, same_backbone=False)
    with pytest.raises(UserError, match="num_classes is 3, must be 4"):
        load_initial(probe, "linear_probe", dataclasses.replace(dist, num_classes=4), BACKBONE, same_backbone=False)


def test_other_sizes_must_be_equal():
    target = dataclasses.replace(DIST, alpha=1, temporal_width=16, layers=(0, 1))
    with pytest.raises(UserError) as error:
        adapt({}, DIST, target)
    message = str(error.value)
    for part in ("alpha is 2, must be 1", "layers is (0, 1, 2), must be (0, 1)", "temporal_width is 8, must be 16"):
        assert part in message


def test_a_model_directory_loads(tmp_path):
    model = small_models.model()
    model_directory.write(tmp_path / "model", model)
    same = load(tmp_path / "model", DIST)
    jax.tree.map(np.testing.assert_array_equal, same, model.dist_params)
    longer = load(tmp_path / "model", dataclasses.replace(DIST, num_frames=6))
    assert longer["pooling"]["positions"].shape == (2, 3, 64)
    with pytest.raises(UserError, match=r"init_from=.*model: .*num_pooling_layers is 2, must be 4"):
        load(tmp_path / "model", dataclasses.replace(DIST, num_pooling_layers=4))


def sources(folder):
    """One model of every kind -> the fingerprint of the CLIP of its training."""
    model_directory.write(folder / "model", small_models.model())
    clip_weights.save_huggingface(small_models.clip_model(), folder / "clip")
    fingerprint = clip_weights.load(str(folder / "clip")).fingerprint
    state = dist_official.to_published(
        small_models.model().dist_params, clip_weights.to_openai(small_models.clip_model())
    )
    save_file({name: np.array(tensor) for name, tensor in state.items()}, folder / "published.safetensors")
    workdir = small_models.write_workdir(folder / "run", str(folder / "clip"))
    return {
        folder / "model": BACKBONE["fingerprint"],
        folder / "published.safetensors": fingerprint,
        workdir: fingerprint,
    }


def test_the_clip_of_the_training_is_compared(tmp_path, capsys):
    other = {"name": "another", "fingerprint": "f" * 64}
    for path, fingerprint in sources(tmp_path).items():
        load(path, DIST, BACKBONE | {"fingerprint": fingerprint})
        message = rf"init_from={path}: .* the CLIP .* \({fingerprint[:12]}\), but backbone\.weights is another \(fff"
        with pytest.raises(UserError, match=message):
            load(path, DIST, other)
        assert not capsys.readouterr().err
        load(path, DIST, other, same_backbone=False)
        warning = capsys.readouterr().err
        assert warning.startswith(f"warning: init_from={path}: ")
        assert warning.count("\n") == 1


def test_half_precision_is_converted_to_float32(tmp_path):
    model = small_models.model()
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), model.dist_params)
    model_directory.write(tmp_path / "model", dataclasses.replace(model, dist_params=half))
    params = load(tmp_path / "model", DIST)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32), strict=True), params, half)


def test_a_published_file_loads_for_any_layers(tmp_path):
    dist = dataclasses.replace(DIST, layers=(0, 2))
    expected = small_models.model(dist=dist).dist_params
    path = small_models.write_pyth(tmp_path / "x.pyth", dist_official.to_published(expected, {}))
    jax.tree.map(np.testing.assert_array_equal, load(path, dist), expected)


def test_a_path_without_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"init_from=.*nowhere does not exist"):
        load(tmp_path / "nowhere", DIST)
