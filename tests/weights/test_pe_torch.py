"""Tests of Perception Encoder Core against PyTorch: open_clip and timm with random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers import pe_files, torch_models
from helpers.torch_models import pixels, to_torch

open_clip = torch_models.import_open_clip()

import timm

from dist_jax.models.backbones.pe import PeBackbone
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.layers import unit
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import backbones, pe, table
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.pe_formats import CLASS_TOKEN, OPEN_CLIP
from dist_jax.weights.published_sizes import PUBLISHED

# open_clip's name of a size of the text tower -> ours.
TEXT_SIZES = {
    "context_length": "context_length", "vocab_size": "vocab_size", "width": "width", "heads": "num_heads",
    "layers": "num_layers",
}  # fmt: skip
SETTINGS = ClipSettings(num_heads=(4, 2))  # widths for which the numbers are not known
assert_close = partial(torch_models.assert_close, tolerance=3e-6)


def image_tower(class_token: bool, img_size: int = 20, num_classes: int = 24) -> "timm.models.Eva":
    """timm's tower: its patches start at (1, 1) if there is a class token, as in all published models."""
    sizes = dict(img_size=img_size, patch_size=5, embed_dim=64, depth=3, num_heads=4, mlp_ratio=2.5)
    options = dict(class_token=class_token, rope_grid_offset=float(class_token), ref_feat_shape=(4, 4))
    return timm.create_model("vit_pe_core_base_patch16_224", num_classes=num_classes, **sizes, **options)


def save(trunk: "torch.nn.Module", directory) -> "torch.nn.Module":
    """Writes a model with this image tower, and returns it."""
    text = open_clip.transformer.TextTransformer(
        context_length=12, vocab_size=64, width=96, heads=2, layers=2, output_dim=24
    )
    model = torch.nn.Module()
    model.visual, model.text = torch.nn.Module(), text
    model.visual.trunk, model.logit_scale = trunk, torch.nn.Parameter(torch.ones(()))
    torch.save(torch_models.randomize(model).state_dict(), directory / "open_clip_pytorch_model.bin")
    return model


@pytest.fixture(scope="module", params=[True, False], ids=["with class token", "without class token"])
def model_and_files(request, tmp_path_factory) -> "tuple[torch.nn.Module, str]":
    directory = tmp_path_factory.mktemp("pe")
    return save(image_tower(request.param), directory), str(directory)


@pytest.fixture(scope="module")
def reference(model_and_files):
    return model_and_files[0]


@pytest.fixture(scope="module")
def loaded(model_and_files):
    return backbones.load(model_and_files[1], settings=SETTINGS)


TOKENS = np.random.default_rng(1).integers(0, 64, (4, 12))


def assert_same_image_tower(backbone, params, trunk, frames: np.ndarray) -> None:
    """Compares the stream after every block, the pooled vector and the image embedding."""
    layers = tuple(range(backbone.num_layers))
    features = jax.jit(lambda params, frames: backbone.features(params, frames, layers))(params, frames[:, None])
    with torch.no_grad():
        prefix = {"return_prefix_tokens": backbone.vision.class_token}
        last, blocks = trunk.forward_intermediates(to_torch(frames), output_fmt="NLC", **prefix)
        pooled, embeddings = trunk.forward_head(last, pre_logits=True), trunk.forward_head(last)
    for ours, theirs in zip(features[:, 0], blocks, strict=True):
        if backbone.vision.class_token:
            theirs = torch.cat(theirs[::-1], dim=1)
        assert_close(ours, theirs)
    assert_close(backbone.frame_summary(params, features[-1, 0]), pooled)
    assert_close(backbone.frame_embeddings(params, features[-1, 0]), embeddings)


def test_the_image_tower_equals_timm(loaded, reference):
    assert (loaded.kind, loaded.vision.resolution, loaded.vision.mlp_dim) == ("pe", 20, 160)
    assert_same_image_tower(loaded.backbone(), loaded.params, reference.visual.trunk, pixels(20))


def test_the_text_tower_equals_open_clip(loaded, reference):
    ours = loaded.backbone().text_embeddings(loaded.params, jnp.asarray(TOKENS, jnp.int32))
    with torch.no_grad():
        assert_close(ours, reference.text(torch.from_numpy(TOKENS)))


def test_the_logits_equal_open_clip(loaded, reference):
    backbone, video = loaded.backbone(), jnp.asarray(pixels(20))[:, None]  # clips of one frame
    dist = DistConfig(1, 1, (2,), 5, 64, 24, 64, 8, 1)
    text = unit(backbone.text_embeddings(loaded.params, jnp.asarray(TOKENS, jnp.int32)))
    ours = VideoModel(backbone, dist, network_name="none").plain_logits(loaded.params, {"label": text}, video)
    with torch.no_grad():
        images, texts = reference.visual.trunk(to_torch(pixels(20))), reference.text(torch.from_numpy(TOKENS))
        cosines = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T
        assert_close(ours["label"], reference.logit_scale.exp() * cosines)


def test_rotary_positions_of_another_resolution_equal_timm(model_and_files, reference):
    """The learned positions differ: ours are interpolated as those of all backbones, timm's with antialiasing."""
    loaded = backbones.load(model_and_files[1], settings=SETTINGS, resolution=35)
    trunk = image_tower(loaded.vision.class_token, img_size=35)
    state = reference.visual.trunk.state_dict()
    state["pos_embed"] = torch.from_numpy(np.array(loaded.params["vision"]["positions"]))[None]
    trunk.load_state_dict(state)
    assert_same_image_tower(loaded.backbone(), loaded.params, trunk.eval(), pixels(35))


@pytest.mark.parametrize("vision", [pe_files.VISION, pe_files.WITHOUT_CLASS_TOKEN], ids=["class token", "none"])
def test_the_published_file_is_that_which_timm_converts(vision, tmp_path):
    tensors = {name: torch.from_numpy(tensor) for name, tensor in pe_files.meta_tensors(vision).items()}
    torch.save(tensors, tmp_path / "PE-Core-X.pt")
    loaded = backbones.load(str(tmp_path / "PE-Core-X.pt"))
    sizes = dict(img_size=8, patch_size=4, embed_dim=384, depth=3, num_heads=6, mlp_ratio=vision.mlp_dim / 384)
    options = dict(class_token=vision.class_token, rope_grid_offset=float(vision.class_token), ref_feat_shape=(2, 2))
    trunk = timm.create_model("vit_pe_core_small_patch16_384", num_classes=32, **sizes, **options).eval()
    trunk.load_state_dict(timm.models.eva.checkpoint_filter_fn(tensors, trunk))
    assert_same_image_tower(loaded.backbone(), loaded.params, trunk, pixels(8))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("PE-Core-B-16", "timm/PE-Core-B-16"),
        ("PE-Core-L-14-336", "timm/PE-Core-L-14-336"),
        ("PE-Core-bigG-14-448", "timm/PE-Core-bigG-14-448"),
    ],
)
def test_the_published_models_have_the_names_and_shapes_of_open_clip(name, weights):
    model_cfg = {key: value for key, value in open_clip.get_model_config(name).items() if key != "custom_text"}
    with torch.device("meta"):
        state = open_clip.CustomTextCLIP(**model_cfg).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    rows = tuple(row for row in OPEN_CLIP if row.paths != (CLASS_TOKEN,) or row.name in shapes)
    vision, text = pe.sizes(rows, shapes, ClipSettings(), name)
    assert vision == PUBLISHED[weights].vision
    assert {key: getattr(text, TEXT_SIZES[key]) for key in TEXT_SIZES} == model_cfg["text_cfg"]
    ours = table.flatten(PeBackbone(vision, text).param_shapes())
    table.check(rows, {path: leaf.shape for path, leaf in ours.items()}, shapes, name)


@pytest.mark.slow
def test_a_base_image_tower_equals_timm():
    trunk = torch_models.randomize(timm.create_model("vit_pe_core_base_patch16_224", num_classes=1024))
    backbone = PUBLISHED["timm/PE-Core-B-16"]
    rows, shapes = table.only(OPEN_CLIP, ["vision"]), table.flatten(backbone.param_shapes())
    state = {f"visual.trunk.{name}": tensor.numpy() for name, tensor in trunk.state_dict().items()}
    shapes = {path: leaf.shape for path, leaf in shapes.items() if path.startswith("vision")}
    table.check(rows, shapes, {name: tensor.shape for name, tensor in state.items()}, "timm")
    params = table.unflatten(dict(table.to_ours(rows, state.__getitem__, shapes)))
    assert_same_image_tower(backbone, params, trunk, pixels(224, num_frames=1))
