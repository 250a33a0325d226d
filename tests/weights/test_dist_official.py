"""Published DiST names: every size from the tensors, every tensor exactly once, both directions bit for bit."""

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
    lambda s, alpha, layers, c, **sizes: DistConfig(
        num_frames=s * alpha, alpha=alpha, layers=tuple(range(layers)), integration_width=64 * c, **sizes
    ),
    s=st.integers(1, 3),
    alpha=st.integers(1, 4),
    layers=st.integers(1, 3),
    c=st.integers(1, 2),
    patch=st.sampled_from([2, 14]),
    clip_width=st.integers(1, 5),
    embed=st.integers(1, 5),
    temporal_width=st.integers(1, 5),
    pooling_layers=st.integers(1, 3),
)


def published(config=small_models.DIST, seed=1):
    """A network's tensors by today's names without `dist_net.`."""
    params = small_models.random_params(official.param_shapes(config), seed)
    prefix = official.PREFIX + official.NETWORK
    return {name.removeprefix(prefix): tensor for name, tensor in official.to_published(params, {}).items()}


@settings(max_examples=10, deadline=None)
@given(config=CONFIGS)
def test_all_sizes_are_read_off_the_tensors_and_the_round_trip_is_bit_for_bit(config):
    tensors = published(config)
    found, params = official.params_from_published(tensors, "x.pyth")
    assert found == config
    back = official.to_published(params, {})
    assert set(back) == {f"backbone.base_encoder.dist_net.{name}" for name in tensors}
    for name, tensor in tensors.items():
        again = back[f"backbone.base_encoder.dist_net.{name}"]
        assert (again.dtype, again.shape, again.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes()), name


def test_every_parameter_has_exactly_one_name():
    paths = [path for entry in official.TABLE for path in entry.paths]
    assert sorted(paths) == sorted(official.param_shapes(small_models.DIST))


def test_half_precision_stays_half_precision():
    tensors = {name: tensor.astype(np.float16) for name, tensor in published().items()}
    _, params = official.params_from_published(tensors, "x.pyth")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float16)}


def test_a_linear_kernel_and_a_joint_in_projection_land_where_flax_wants_them():
    tensors = published()
    _, params = official.params_from_published(tensors, "x.pyth")
    np.testing.assert_array_equal(params["layers"]["input"]["kernel"][1], tensors["input_linears.1.weight"].T)
    joint = tensors["adapooling_nets.1.spatial_transformer.attn.in_proj_weight"]  # [3 * 64, 64], query, key, value
    value = params["pooling"]["spatial"]["attention"]["value"]["kernel"][1]  # [64, 1, 64]
    np.testing.assert_array_equal(value[:, 0], joint[128:].T)


@pytest.mark.parametrize(
    ("older", "today"),
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
def test_older_files_have_other_names(older, today):
    for prefix in ("", "backbone.base_encoder.", "module.backbone.base_encoder."):
        assert official.current_name(f"{prefix}ladder_net.{older}") == f"dist_net.{today}"


def test_clip_names_are_not_taken_for_the_networks():
    network, clip = official.split(["backbone.base_encoder.visual.proj", "backbone.base_encoder.dist_net.proj"], "x")
    assert network == {"proj": "backbone.base_encoder.dist_net.proj"}
    assert clip == {"visual.proj": "backbone.base_encoder.visual.proj"}


def test_one_tensor_under_two_names_is_refused():
    with pytest.raises(UserError, match=r"dist_net\.proj and ladder_net\.proj are the same"):
        official.split(["dist_net.proj", "ladder_net.proj"], "x.pyth")


def test_all_mismatches_are_listed_at_once():
    tensors = published()
    del tensors["ln_post.bias"]
    tensors["head.weight"] = np.zeros(3)
    tensors["input_linears.1.weight"] = np.zeros((64, 127), np.float32)
    with pytest.raises(UserError) as error:
        official.params_from_published(tensors, "x.pyth")
    message = str(error.value)
    assert "\n" not in message
    assert "ln_post.bias is missing" in message
    assert "head.weight is not known" in message
    assert "input_linears.1.weight has shape [64, 127] where [64, 128] is needed" in message


def test_any_missing_tensor_is_refused():
    tensors = published()
    for name in tensors:
        with pytest.raises(UserError, match=rf"{re.escape(name)} is missing"):
            official.params_from_published({n: x for n, x in tensors.items() if n != name}, "x.pyth")


def test_a_width_without_whole_heads_is_refused():
    shapes = {name: tensor.shape for name, tensor in published().items()}
    narrow = {name: tuple(96 if size == 64 else size for size in shape) for name, shape in shapes.items()}
    with pytest.raises(UserError, match=r"integration width 96 .* not a multiple of 64"):
        official.infer_config(narrow, "x.pyth")


def test_the_caller_names_as_many_blocks_as_there_are_layers():
    shapes = {name: tensor.shape for name, tensor in published().items()}
    assert official.infer_config(shapes, "x.pyth", (1, 3, 5)).layers == (1, 3, 5)
    with pytest.raises(UserError, match="has 3 layers, but --selected names 2"):
        official.infer_config(shapes, "x.pyth", (1, 3))


def test_layers_of_different_precision_are_not_silently_cast():
    tensors = published()
    tensors["input_linears.1.bias"] = tensors["input_linears.1.bias"].astype(np.float16)
    with pytest.raises(UserError, match=r"input_linears\.1\.bias has dtype float16 where layer 0 has float32"):
        official.params_from_published(tensors, "x.pyth")


# What follows runs where PyTorch is installed: the files themselves, and the published mathematics.


def full_state(model):
    return official.to_published(model.dist_params, clip_weights.to_openai(model.clip))


def test_a_file_gives_back_the_network_and_its_clip(tmp_path):
    model = small_models.model()
    path = small_models.write_pyth(tmp_path / "x.pyth", full_state(model))
    config, params, clip = official.read(path)
    assert config == model.dist
    np.testing.assert_array_equal(clip["visual.proj"], model.clip.params["vision"]["proj"])
    for path_, leaf in table.flatten(model.dist_params).items():
        np.testing.assert_array_equal(table.flatten(params)[path_], leaf, err_msg=path_)


def test_a_network_without_its_clip(tmp_path):
    state = {name: x for name, x in full_state(small_models.model()).items() if ".dist_net." in name}
    path = small_models.write_pyth(tmp_path / "x.pyth", state)
    assert official.read(path)[2] == {}


OTHER_SIZES = {
    "as published": {},
    "patch 14, alpha 4": dict(patch=14, alpha=4, frames=8),
    "a subset of layers": dict(selected=(1,)),
    "the last block unread, other widths": dict(
        selected=(0, 1), integration_width=128, temporal_width=12, pooling_layers=3
    ),
    "every frame": dict(alpha=1, frames=3),
}


@pytest.mark.parametrize("sizes", OTHER_SIZES.values(), ids=OTHER_SIZES)
def test_equals_the_published_network_in_pytorch(sizes):
    torch = pytest.importorskip("torch")
    from helpers import torch_reference

    from dist_jax.models.preprocess import normalize

    dist = dataclasses.replace(small_models.DIST, **sizes)
    vision = dataclasses.replace(small_models.VISION, patch_size=dist.patch_size, resolution=2 * dist.patch_size)
    model = small_models.model(5, dist, vision=vision)
    reference = torch_reference.Published(vision, model.clip.text, dist)
    state = {name: torch.from_numpy(np.array(x)) for name, x in full_state(model).items()}
    reference.load_state_dict(state, strict=True)

    pixels = small_models.video(2, dist, vision.resolution)
    clips = np.asarray(normalize(pixels))
    tokens = np.array([[52, 3, 4, 53], [52, 7, 53, 0]])
    predictor = small_models.predictor(model)
    text = predictor.encode_text(tokens)
    with torch.no_grad():
        as_torch = torch.from_numpy(clips.transpose(0, 1, 4, 2, 3).copy())
        close(predictor.encode_video(pixels), reference.embed(as_torch))
        streams = torch.stack([reference.features(as_torch)[i] for i in dist.layers])
        close(predictor.features(pixels), streams)
        wanted = reference.logits(as_torch, torch.from_numpy(tokens), zero_shot_weight=0.3)
        close(predictor.logits(pixels, text, zero_shot_weight=0.3), wanted)


def close(ours, theirs):
    theirs = theirs.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
