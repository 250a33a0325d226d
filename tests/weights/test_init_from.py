"""Starting from another network: per-frame parameters interpolated along time, all other sizes equal."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import DIST
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, model_directory, table
from dist_jax.weights.init_from import adapt, interpolate, load_initial

BACKBONE = {"name": "small CLIP", "fingerprint": f"{0:064}"}  # that of small_models.model()


def start(path, target, backbone=BACKBONE, same_backbone=True):
    return load_initial(path, target, backbone, same_backbone)


def test_halving_averages_neighbours():
    np.testing.assert_array_equal(interpolate(np.array([1.0, 3.0, 10.0, 20.0]), 2, 0), [2, 15])


def test_doubling_stands_at_quarters_and_repeats_the_ends():
    np.testing.assert_array_equal(interpolate(np.array([0.0, 4.0]), 4, 0), [0, 1, 3, 4])


def test_a_quarter_reads_between_the_middle_two_of_four():
    np.testing.assert_array_equal(interpolate(np.arange(8.0), 2, 0), [1.5, 5.5])


@settings(deadline=None)
@given(old=st.integers(1, 9), new=st.integers(1, 9))
def test_stays_between_old_values_and_keeps_constants_and_their_dtype(old, new):
    values = np.random.default_rng(old).standard_normal((2, old, 3)).astype(np.float32)
    found = interpolate(values, new, 1)
    assert (found.shape, found.dtype) == ((2, new, 3), np.float32)
    assert np.all(found <= values.max(axis=1, keepdims=True) + 1e-6)
    assert np.all(found >= values.min(axis=1, keepdims=True) - 1e-6)
    np.testing.assert_array_equal(interpolate(values, old, 1), values)
    np.testing.assert_array_equal(interpolate(np.full((1, old), 2.5, np.float32), new, 1), np.full((1, new), 2.5))


@pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 1), (32, 8), (8, 32), (5, 7), (7, 5)])
def test_is_what_torch_computes(old, new):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(old).standard_normal((2, 3, old)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(values), size=new, mode="linear", align_corners=False)
    np.testing.assert_allclose(interpolate(values, new, 2), wanted.numpy(), atol=1e-6)


def test_only_what_has_frames_changes():
    target = dataclasses.replace(DIST, num_frames=8)
    params = small_models.model().dist_params
    found = adapt(params, DIST, target)
    shapes = dist_official.param_shapes(target)
    for path, leaf in table.flatten(found).items():
        assert leaf.shape == shapes[path], path
        if path not in ("layers/class_token", "pooling/positions"):
            np.testing.assert_array_equal(leaf, table.flatten(params)[path])
    token = params["layers"]["class_token"]  # [L, 2, C] -> [L, 4, C]
    np.testing.assert_allclose(found["layers"]["class_token"][:, 1], 0.75 * token[:, 0] + 0.25 * token[:, 1], atol=1e-6)


def test_every_other_difference_is_named_with_both_sides():
    target = dataclasses.replace(DIST, alpha=1, temporal_width=16, layers=(0, 1))
    with pytest.raises(UserError) as error:
        adapt({}, DIST, target)
    message = str(error.value)
    for part in ("alpha is 2 there and 1 here", "selected is (0, 1, 2) there and (0, 1) here", "temporal_width is 8"):
        assert part in message


def test_reads_a_model_directory(tmp_path):
    model = small_models.model()
    model_directory.write(tmp_path / "model", model)
    same = start(tmp_path / "model", DIST)
    jax.tree.map(np.testing.assert_array_equal, same, model.dist_params)
    longer = start(tmp_path / "model", dataclasses.replace(DIST, num_frames=6))
    assert longer["pooling"]["positions"].shape == (2, 3, 64)
    with pytest.raises(UserError, match=r"init_from=.*model: .*pooling_layers is 2 there and 4 here"):
        start(tmp_path / "model", dataclasses.replace(DIST, num_pooling_layers=4))


def sources(folder):
    """The three kinds of models, and the fingerprint of the CLIP that each was trained on."""
    model_directory.write(folder / "model", small_models.model())
    clip_weights.save_huggingface(small_models.clip(), folder / "clip")
    own = clip_weights.load(str(folder / "clip")).fingerprint
    state = dist_official.to_published(small_models.model().dist_params, clip_weights.to_openai(small_models.clip()))
    save_file({name: np.array(tensor) for name, tensor in state.items()}, folder / "published.safetensors")
    workdir = small_models.write_workdir(folder / "run", str(folder / "clip"))
    return {folder / "model": BACKBONE["fingerprint"], folder / "published.safetensors": own, workdir: own}


def test_the_clip_that_a_model_was_trained_on_is_compared(tmp_path, capsys):
    other = {"name": "another", "fingerprint": "f" * 64}
    for path, fingerprint in sources(tmp_path).items():
        start(path, DIST, BACKBONE | {"fingerprint": fingerprint})
        message = rf"init_from={path}: .* trained on the CLIP .* \({fingerprint[:12]}\), clip\.weights is another \(fff"
        with pytest.raises(UserError, match=message):
            start(path, DIST, other)
        assert not capsys.readouterr().err
        start(path, DIST, other, same_backbone=False)
        printed = capsys.readouterr().err
        assert printed.startswith(f"warning: init_from={path}: ")
        assert printed.count("\n") == 1


def test_half_precision_starts_in_float32(tmp_path):
    model = small_models.model()
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), model.dist_params)
    model_directory.write(tmp_path / "model", dataclasses.replace(model, dist_params=half))
    found = start(tmp_path / "model", DIST)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32), strict=True), found, half)


def test_reads_a_published_file_whatever_blocks_are_selected(tmp_path):
    dist = dataclasses.replace(DIST, layers=(0, 2))
    params = small_models.model(dist=dist).dist_params
    path = small_models.write_pyth(tmp_path / "x.pyth", dist_official.to_published(params, {}))
    found = start(path, dist)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"init_from=.*nowhere does not exist"):
        start(tmp_path / "nowhere", DIST)
