"""Tests of published DiST checkpoints: sizes from the tensors, and exact conversion in both directions."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from helpers import small_models
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.errors import UserError
from dist_jax.models.dist_network import DistConfig
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official as official
from dist_jax.weights import table

CONFIGS = st.builds(
    lambda s, alpha, num_layers, c, **sizes: DistConfig(
        num_frames=s * alpha, alpha=alpha, layers=tuple(range(num_layers)), integration_width=64 * c, **sizes
    ),
    s=st.integers(1, 3),
    alpha=st.integers(1, 4),
    num_layers=st.integers(1, 3),
    c=st.integers(1, 2),
    patch_size=st.sampled_from([2, 14]),
    backbone_width=st.integers(1, 5),
    embed_dim=st.integers(1, 5),
    temporal_width=st.integers(1, 5),
    num_pooling_layers=st.integers(1, 3),
)


def published(config=small_models.DIST, seed=1):
    """The tensors of a network by current names without `dist_net.`."""
    params = small_models.random_params(official.param_shapes(config), seed)
    prefix = official.PREFIX + official.DIST_PREFIX
    return {name.removeprefix(prefix): tensor for name, tensor in official.to_published(params, {}).items()}


@settings(max_examples=10)
@given(config=CONFIGS)
def test_sizes_are_read_from_the_tensors_and_the_round_trip_is_exact(config):
    tensors = published(config)
    inferred, params = official.params_from_published(tensors, "x.pyth")
    assert inferred == config
    converted = official.to_published(params, {})
    assert set(converted) == {f"backbone.base_encoder.dist_net.{name}" for name in tensors}
    for name, tensor in tensors.items():
        copy = converted[f"backbone.base_encoder.dist_net.{name}"]
        assert (copy.dtype, copy.shape, copy.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes()), name


def test_every_parameter_has_exactly_one_name():
    paths = [path for entry in official.TABLE for path in entry.paths]
    assert sorted(paths) == sorted(official.param_shapes(small_models.DIST))


def test_half_precision_parameters_keep_their_dtype():
    tensors = {name: tensor.astype(np.float16) for name, tensor in published().items()}
    _, params = official.params_from_published(tensors, "x.pyth")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float16)}


def test_linear_kernels_are_transposed_and_joint_projections_are_split():
    tensors = published()
    _, params = official.params_from_published(tensors, "x.pyth")
    np.testing.assert_array_equal(params["layers"]["input"]["kernel"][1], tensors["input_linears.1.weight"].T)
    joint = tensors["adapooling_nets.1.spatial_transformer.attn.in_proj_weight"]  # [3 * 64, 64], query, key, value
    value = params["pooling"]["spatial"]["attention"]["value"]["kernel"][1]  # [64, 1, 64]
    np.testing.assert_array_equal(value[:, 0], joint[128:].T)


@pytest.mark.parametrize(
    ("older", "current"),
    [
        ("input_map_feat_nets.0.weight", "input_linears.0.weight"),
        ("s2t_fuse_nets.1.linear_fuse.bias", "integration2temporal_nets.1.linear_fuse.bias"),
        ("t2s_fuse_nets.2.cls_token", "temporal2integration_nets.2.cls_token"),
        ("temporal_nets.0.ln.weight", "temporal_nets.0.ln.weight"),
        ("spatial_nets.0.ffn.c_fc.weight", "integration_nets.0.ffn.c_fc.weight"),
        ("final_temporal_nets.3.positional_embedding", "adapooling_nets.3.positional_embedding"),
        ("proj_spatial_cls_token.weight", "proj_spatial_cls_token.weight"),
        ("aggregated_spatial_cls_token", "aggregated_spatial_cls_token"),
        ("proj", "proj"),
    ],
)
def test_names_of_older_files_are_converted(older, current):
    for prefix in ("", "backbone.base_encoder.", "module.backbone.base_encoder."):
        assert official.current_name(f"{prefix}ladder_net.{older}") == f"dist_net.{current}"


def test_names_are_split_into_network_and_clip():
    network, clip_names = official.split(
        ["backbone.base_encoder.visual.proj", "backbone.base_encoder.dist_net.proj"], "x"
    )
    assert network == {"proj": "backbone.base_encoder.dist_net.proj"}
    assert clip_names == {"visual.proj": "backbone.base_encoder.visual.proj"}


def test_two_names_of_one_tensor_are_an_error():
    with pytest.raises(UserError, match=r"dist_net\.proj and ladder_net\.proj are the same"):
        official.split(["dist_net.proj", "ladder_net.proj"], "x.pyth")


def test_one_error_lists_all_mismatches():
    tensors = published()
    del tensors["ln_post.bias"]
    tensors["head.weight"] = np.zeros(3)
    tensors["input_linears.1.weight"] = np.zeros((64, 127), np.float32)
    with pytest.raises(UserError) as error:
        official.params_from_published(tensors, "x.pyth")
    message = str(error.value)
    assert "\n" not in message
    assert "ln_post.bias is missing" in message
    assert "head.weight is unknown" in message
    assert "input_linears.1.weight has shape [64, 127], expected [64, 128]" in message


def test_every_missing_tensor_is_an_error():
    tensors = published()
    for name in tensors:
        with pytest.raises(UserError, match=rf"(missing: .*{re.escape(name)}|{re.escape(name)} is missing)"):
            official.params_from_published({n: x for n, x in tensors.items() if n != name}, "x.pyth")


def test_a_width_that_is_no_multiple_of_64_is_an_error():
    shapes = {name: tensor.shape for name, tensor in published().items()}
    narrow = {name: tuple(96 if size == 64 else size for size in shape) for name, shape in shapes.items()}
    with pytest.raises(UserError, match=r"integration width 96 .* must be a multiple of 64"):
        official.infer_config(narrow, "x.pyth")


def test_layers_must_list_one_block_per_dist_layer():
    shapes = {name: tensor.shape for name, tensor in published().items()}
    assert official.infer_config(shapes, "x.pyth", (1, 3, 5)).layers == (1, 3, 5)
    with pytest.raises(UserError, match="has 3 layers, but --layers lists 2"):
        official.infer_config(shapes, "x.pyth", (1, 3))


def test_layers_of_different_precision_are_an_error():
    tensors = published()
    tensors["input_linears.1.bias"] = tensors["input_linears.1.bias"].astype(np.float16)
    with pytest.raises(UserError, match=r"input_linears\.1\.bias has dtype float16, but layer 0 has float32"):
        official.params_from_published(tensors, "x.pyth")


# The following tests need PyTorch.


def full_state(model):
    return official.to_published(model.dist_params, clip_weights.to_openai(model.clip_model))


def test_a_published_file_loads_the_network_and_its_clip(tmp_path):
    model = small_models.model()
    file = small_models.write_pyth(tmp_path / "x.pyth", full_state(model))
    config, params, clip_tensors = official.read(file)
    assert config == model.dist
    np.testing.assert_array_equal(clip_tensors["visual.proj"], model.clip_model.params["vision"]["proj"])
    for path, leaf in table.flatten(model.dist_params).items():
        np.testing.assert_array_equal(table.flatten(params)[path], leaf, err_msg=path)


def test_a_published_file_without_clip_loads(tmp_path):
    state = {name: x for name, x in full_state(small_models.model()).items() if ".dist_net." in name}
    file = small_models.write_pyth(tmp_path / "x.pyth", state)
    assert official.read(file)[2] == {}


OTHER_SIZES = {
    "as published": {},
    "patch 14, alpha 4": dict(patch_size=14, alpha=4, num_frames=8),
    "a subset of layers": dict(layers=(1,)),
    "the last block unread, other widths": dict(
        layers=(0, 1), integration_width=128, temporal_width=12, num_pooling_layers=3
    ),
    "every frame": dict(alpha=1, num_frames=3),
}


@pytest.mark.parametrize("sizes", OTHER_SIZES.values(), ids=OTHER_SIZES)
def test_the_network_equals_the_pytorch_reference(sizes):
    torch = pytest.importorskip("torch")
    from helpers import torch_reference

    from dist_jax.models.backbones.clip import CLIP_MEAN, CLIP_STD
    from dist_jax.models.preprocess import normalize

    dist = dataclasses.replace(small_models.DIST, **sizes)
    vision = dataclasses.replace(small_models.VISION, patch_size=dist.patch_size, resolution=2 * dist.patch_size)
    model = small_models.model(5, dist, vision=vision)
    reference = torch_reference.Published(vision, model.clip_model.text, dist)
    state = {name: torch.from_numpy(np.array(x)) for name, x in full_state(model).items()}
    reference.load_state_dict(state, strict=True)

    pixels = small_models.video(2, dist, vision.resolution)
    clips = np.asarray(normalize(pixels, CLIP_MEAN, CLIP_STD))
    tokens = np.array([[52, 3, 4, 53], [52, 7, 53, 0]])
    predictor = small_models.predictor(model)
    text = predictor.encode_text(tokens)
    with torch.no_grad():
        as_torch = torch.from_numpy(clips.transpose(0, 1, 4, 2, 3).copy())
        assert_close(predictor.encode_video(pixels), reference.embed(as_torch))
        streams = torch.stack([reference.features(as_torch)[i] for i in dist.layers])
        assert_close(predictor.features(pixels), streams)
        expected = reference.logits(as_torch, torch.from_numpy(tokens), zero_shot_weight=0.3)
        assert_close(predictor.logits(pixels, text, zero_shot_weight=0.3), expected)


def assert_close(ours, theirs):
    theirs = theirs.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
