"""config.backbone.quantize: products, parameters, shardings, features, a training step, and loaded models."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models

import dist_jax
from dist_jax import config as settings
from dist_jax.cost import abstract, measure, programs
from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.quantization import QUANTIZED_DTYPES, quantize_kernel, quantized_dot
from dist_jax.weights import clip, frozen, model_directory, table
from dist_jax.weights.published_sizes import PUBLISHED

# Least cosine between the features of a token after any block, quantised and float.
MIN_COSINE = {"int8": 0.9995, "fp8": 0.995}
FRAMES = np.random.default_rng(1).standard_normal((2, 2, 8, 8, 3), np.float32)
VIDEO = small_models.video(2)


def mesh_of(data=1, fsdp=1, tensor=1):
    return make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor}, jax.devices()[: data * fsdp * tensor])


def placed_tower(quantize, mesh, dtype=jnp.float32, params=None):
    leaves = table.flatten(params or {"vision": small_models.clip_model().params["vision"]})
    return table.unflatten({path: frozen.place(mesh, dtype, quantize, path, leaf) for path, leaf in leaves.items()})


def features(quantize, mesh=None, dtype=jnp.float32):
    """Features of the small CLIP after each block, [L, B, S, 1+N, D]."""
    backbone = ClipBackbone(small_models.VISION, None, dtype, quantize)
    params = placed_tower(quantize, mesh or mesh_of(), dtype)
    return jax.jit(lambda params, frames: backbone.features(params, frames, (0, 1, 2)))(params, FRAMES)


def cosines(a, b):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    return np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_an_int8_product_is_the_exact_product_of_the_rounded_integers():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((3, 2, 40), np.float32), rng.standard_normal((40, 5), np.float32)
    quantized = quantize_kernel(jnp.asarray(x), "int8", (2,)), quantize_kernel(jnp.asarray(kernel), "int8", (0,))
    rows, columns = (np.asarray(array.qvalue, np.float64) for array in quantized)
    row_scale, column_scale = (np.asarray(array.scale, np.float64) for array in quantized)
    assert np.max(np.abs(rows - x / row_scale)) < 0.5 + 1e-4
    actual = quantized_dot(jnp.asarray(x), quantized[1], "int8")
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, (rows @ columns) * row_scale * column_scale, rtol=1e-6)


@pytest.mark.parametrize("quantize", QUANTIZED_DTYPES)
def test_rows_and_channels_do_not_share_a_scale(quantize):
    """A product of rows and columns of very different size has the same relative error for each."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((4, 64), np.float32), rng.standard_normal((64, 3), np.float32)
    sizes = np.float32([2**-20, 1, 2**10, 0])[:, None], np.float32([2**-13, 1, 2**13])  # the same roundings
    product = quantized_dot(jnp.asarray(x), quantize_kernel(jnp.asarray(kernel), quantize, (0,)), quantize)
    scaled = quantize_kernel(jnp.asarray(kernel * sizes[1]), quantize, (0,))
    actual = quantized_dot(jnp.asarray(x * sizes[0]), scaled, quantize)
    np.testing.assert_allclose(actual, np.asarray(product) * sizes[0] * sizes[1], rtol=1e-6)


def test_only_the_kernels_of_the_image_towers_blocks_are_quantised():
    params = {name: small_models.clip_model().params[name] for name in ("vision", "text")}
    placed = placed_tower("int8", mesh_of(), jnp.bfloat16, params)
    leaves = {sharding.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(placed)}
    int8 = {path for path, leaf in leaves.items() if leaf.dtype == jnp.int8}
    layers = ("attention/query", "attention/key", "attention/value", "attention/out", "mlp/fc", "mlp/proj")
    assert int8 == {f"vision/blocks/{layer}/kernel/qvalue" for layer in layers}
    shapes = {layer: leaves[f"vision/blocks/{layer}/kernel/scale"].shape for layer in layers}
    one_per_head_channel, one_per_width = (3, 1, 2, 64), (3, 1, 128)
    assert shapes == dict.fromkeys(layers[:3], one_per_head_channel) | {
        "attention/out": (3, 1, 1, 128),
        "mlp/fc": (3, 1, 512),
        "mlp/proj": one_per_width,
    }
    others = {path: leaf.dtype for path, leaf in leaves.items() if "/kernel/" not in path}
    assert {dtype for path, dtype in others.items() if path.startswith("vision")} == {jnp.dtype(jnp.bfloat16)}
    assert {dtype for path, dtype in others.items() if path.startswith("text")} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("quantize", ["", *QUANTIZED_DTYPES])
def test_the_abstract_parameters_are_those_of_the_loaded_tower_on_any_mesh(quantize):
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    placed = placed_tower(quantize, mesh)
    expected = table.unflatten(
        {
            path: frozen.abstract(mesh, jnp.float32, quantize, path, leaf.shape)
            for path, leaf in table.flatten(ClipBackbone(small_models.VISION).param_shapes()).items()
            if path.startswith("vision/")
        }
    )
    assert jax.tree.structure(placed) == jax.tree.structure(expected)
    for leaf, shape in zip(jax.tree.leaves(placed), jax.tree.leaves(expected), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("quantize", QUANTIZED_DTYPES)
def test_features_of_every_block_are_close_to_those_of_the_float_tower(quantize, dtype):
    quantized = features(quantize, dtype=dtype)
    assert quantized.dtype == dtype
    assert np.min(cosines(quantized, features(""))) > MIN_COSINE[quantize]
    assert not np.array_equal(quantized, features("", dtype=dtype))


def test_features_do_not_depend_on_the_mesh():
    on_mesh = features("int8", mesh_of(data=2, fsdp=2, tensor=2))
    assert np.min(cosines(on_mesh, features("int8"))) > 0.9999  # sums in another order round differently


@pytest.mark.slow
@pytest.mark.parametrize("quantize", QUANTIZED_DTYPES)
def test_features_of_a_base_tower_are_close_to_those_of_the_float_tower(quantize):
    vision = dataclasses.replace(PUBLISHED["openai/clip-vit-base-patch16"].vision, resolution=64)
    shapes = {path: leaf.shape for path, leaf in table.flatten(ClipBackbone(vision).param_shapes()["vision"]).items()}
    params = {"vision": small_models.random_params(shapes, seed=0)}
    frames = np.random.default_rng(0).standard_normal((1, 1, 64, 64, 3), np.float32)
    layers = tuple(range(12))

    def run(mode):
        tower = placed_tower(mode, mesh_of(), params=params)
        return ClipBackbone(vision, None, jnp.float32, mode).features(tower, frames, layers)

    assert np.min(cosines(run(quantize), run(""))) > MIN_COSINE[quantize]


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_training_step_compiles_without_weights_and_runs(tmp_path):
    clip.save_huggingface(small_models.clip_model(), tmp_path)
    config = settings.defaults()
    config.batch_size = 2
    config.backbone.update(weights=str(tmp_path), quantize="int8")
    config.mix.update(mixup_alpha=0.0, cutmix_alpha=0.0)  # without Beta samples the step compiles faster
    config.model.update(num_frames=4, integration_width=64, num_pooling_layers=1)
    setup = abstract.setup(config, mesh_of())
    assert setup.frozen["vision"]["blocks"]["mlp"]["fc"]["kernel"].qvalue.dtype == jnp.int8
    assert measure.measure(programs.TRAIN, setup, num_steps=1).flops > 0


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The directory of a model that was trained on an int8 tower."""
    folder = tmp_path_factory.mktemp("quantized") / "model"
    model_directory.write(folder, dataclasses.replace(small_models.model(), quantize="int8"))
    return folder


def test_a_model_is_loaded_with_the_setting_of_its_training(directory):
    trained, as_float = dist_jax.load(directory), dist_jax.load(directory, quantize="")
    assert np.array_equal(trained.features(VIDEO), dist_jax.load(directory, quantize="int8").features(VIDEO))
    assert not np.array_equal(trained.features(VIDEO), as_float.features(VIDEO))
    assert np.min(cosines(trained.encode_video(VIDEO), as_float.encode_video(VIDEO))) > MIN_COSINE["int8"]


def test_a_workdir_is_loaded_with_the_setting_of_its_run(tmp_path):
    clip.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    workdir = small_models.write_workdir(tmp_path / "run", str(tmp_path / "clip"))
    as_float = dist_jax.load(workdir).features(VIDEO)
    run_file = tmp_path / "run" / "run.json"
    run = json.loads(run_file.read_text())
    run["config"]["backbone"]["quantize"] = "int8"
    run_file.write_text(json.dumps(run))
    assert not np.array_equal(dist_jax.load(workdir).features(VIDEO), as_float)
    assert np.array_equal(dist_jax.load(workdir, quantize="").features(VIDEO), as_float)
    del run["config"]["backbone"]["quantize"]  # a run of an older version
    run_file.write_text(json.dumps(run))
    assert np.array_equal(dist_jax.load(workdir).features(VIDEO), as_float)


def test_an_unknown_setting_is_refused_with_the_known_ones(directory):
    with pytest.raises(UserError, match="quantize='int4': must be one of 'int8', 'fp8', or empty"):
        dist_jax.load(directory, quantize="int4")
    config = settings.defaults()
    for quantize in ("", *QUANTIZED_DTYPES):
        config.backbone.quantize = quantize
        settings.validate(config)
    config.backbone.quantize = "int4"
    with pytest.raises(UserError, match=r"backbone\.quantize='int4': must be one of '', 'int8', 'fp8'$"):
        settings.validate(config)


def test_a_missing_package_is_named(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"needs Qwix, which is not installed; pip install 'qwix>=0\.1\.8,<0\.2'$"):
        dist_jax.load(directory)
    dist_jax.load(directory, quantize="")
