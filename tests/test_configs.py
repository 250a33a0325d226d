"""Every configuration file with every argument: settings, trainable parameters, operations. Traced, not compiled."""

import itertools
import re
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from helpers.config_files import load_module

from dist_jax import config as settings
from dist_jax import model_setup
from dist_jax.cost import abstract, flops
from dist_jax.distributed.mesh import make_mesh
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.video_model import VideoModel
from examples.demo.tiny_backbones import KINDS

ROOT = Path(__file__).parents[1]
MODULES = {file.stem: load_module(file) for file in sorted(ROOT.glob("configs/*.py"))}

# NAME:ARGUMENT -> trainable parameters, 10^9 multiply-adds of the forward pass of one clip. CLIP needs 17.6 (B/16) and
# 81.1 (L/14) of these for each of the S frames; the rest is the trained network. DiST has tokens and positions for
# every frame (on SigLIP only positions), and a projection of 384 x 512 (SigLIP: 384 x 768) for every label. Not every
# argument: tracing takes seconds.
EXPECTED = {
    "demo:network=dist": (1_658_400, 0.0473),
    "demo:network=linear_probe": (51_600, 0.0222),
    "demo:network=attentive_probe": (250_000, 0.0224),
    "demo:network=none": (0, 0.0222),
    "epic100:model=vitb,frames=32": (26_350_944, 322.1),
    "finetune:model=vitb,frames=16": (26_105_184, 161.0),
    "finetune:model=vitb,frames=32": (26_154_336, 322.1),
    "finetune:model=vitb,frames=64": (26_252_640, 644.2),
    "finetune:model=vitl,frames=64": (39_867_744, 2818.3),
    "k400_pe_l:frames=32": (39_794_016, 3357.6),
    "k400_pe_l:frames=16": (39_708_000, 1678.8),
    "k400_probe:network=attentive_probe,model=vitb": (7_396_240, 140.6),
    "k400_probe:network=attentive_probe,model=vitl": (13_007_248, 648.8),
    "k400_probe:network=linear_probe,model=vitb": (307_600, 140.6),
    "k400_probe:network=linear_probe,model=vitl": (410_000, 648.8),
    "k400_siglip2_b:frames=16": (26_166_624, 162.1),
    "k400_vitb:frames=16": (26_105_184, 161.0),
    "k400_vitb:frames=32": (26_154_336, 322.1),
    "k400_vitb:frames=64": (26_252_640, 644.2),
    "k400_vitl:init=k710": (39_867_744, 2818.3),
    "k400_vitl:init=random": (39_867_744, 2818.3),
    "k710_dfn_h": (51_426_912, 5678.9),
    "k710_vitl": (39_867_744, 2818.3),
    "ssv2_vitb:frames=16": (19_001_184, 161.0),
    "ssv2_vitl": (32_745_312, 2818.3),
    "zero_shot:dataset=k600,model=vitb,frames=16": (26_105_184, 161.0),
}
NUM_CLASSES = 400
# What differs between the published experiments. Everything else is the recipe, which are the defaults.
EXPERIMENT = {
    "augment.hflip_label_pairs",
    "backbone.weights",
    "data.train",
    "data.val",
    "init_from",
    "model.num_frames",
    "model.num_pooling_layers",
}


def every_argument(module: ModuleType) -> list[str]:
    """All combinations of the values of a file's arguments; [""] for a file without arguments."""
    choices = getattr(module, "ARGUMENTS", {})
    pairs = [[f"{name}={value}" for value in values] for name, values in choices.items()]
    return [",".join(combination) for combination in itertools.product(*pairs)]


ALL = [":".join(filter(None, (name, a))) for name, module in MODULES.items() for a in every_argument(module)]
PUBLISHED = sorted(name for name in ALL if name.startswith(("k400_vit", "k710_vit", "ssv2")))


def resolve(name: str) -> ml_collections.ConfigDict:
    """The configuration NAME or NAME:ARGUMENT."""
    name, *argument = name.split(":")
    return MODULES[name].get_config(*argument)


def test_the_table_has_every_file_and_only_existing_arguments():
    assert set(EXPECTED) <= set(ALL)
    assert {name.split(":")[0] for name in EXPECTED} == set(MODULES)


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_is_valid_and_adds_no_field(name):
    config = resolve(name)
    settings.validate(config)
    assert config.is_locked
    assert settings.field_names(config) == settings.field_names(settings.defaults())


@pytest.mark.parametrize("name", MODULES)
def test_without_an_argument_every_first_value_is_used(name):
    first = every_argument(MODULES[name])[0]
    assert MODULES[name].get_config() == resolve(":".join(filter(None, (name, first))))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_experiments_share_the_default_recipe(name):
    config, default = resolve(name), settings.defaults()
    changed = {field for field in settings.field_names(default) if config[field] != default[field]}
    assert changed <= EXPERIMENT
    assert {"data.train", "data.val"} <= changed


def test_every_configuration_in_the_documentation_exists():
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    found = re.findall(r"configs/([a-z]\w*)\.py(?::([\w=,]+))?", "\n".join(texts))
    for name, argument in found:
        resolve(":".join(filter(None, (name, argument))))
    assert {"k400_vitb", "k400_vitl", "k710_vitl", "ssv2_vitb", "ssv2_vitl", "finetune"} <= {name for name, _ in found}


@pytest.mark.parametrize("name", MODULES)
def test_the_docstring_has_the_command_and_only_existing_arguments(name):
    text = MODULES[name].__doc__
    assert f"python -m dist_jax.main --config=configs/{name}.py" in text
    for other, argument in re.findall(r"--config=configs/(\w+)\.py(?::([\w=,]+))?", text):
        resolve(":".join(filter(None, (other, argument))))


@pytest.fixture(scope="module")
def costs() -> dict[VideoModel, tuple[int, int]]:
    """The results of `trace`. Several configurations have the same model."""
    return {}


def trace(setup: model_setup.ModelSetup) -> tuple[int, int]:
    """Trainable parameters, and multiply-adds of the forward pass of one clip."""
    model, size = setup.model, setup.model.backbone.resolution
    params = jax.eval_shape(model.init, jax.random.key(0))
    video = jax.ShapeDtypeStruct((1, model.dist.num_frames, size, size, 3), model.dtype)
    forward, logits = jax.make_jaxpr(model.logits, return_shape=True)(params, setup.frozen, setup.text_features, video)
    assert logits == {name: jax.ShapeDtypeStruct((1, NUM_CLASSES), jnp.float32) for name in model.label_names}
    return sum(leaf.size for leaf in jax.tree.leaves(params)), flops.count(forward) // 2


@pytest.mark.parametrize("name", EXPECTED)
def test_trainable_parameters_and_operations(name, costs):
    config = resolve(name)
    backbone = ClipBackbone(KINDS["clip"].vision) if name.startswith("demo") else abstract.image_tower(config.backbone)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    num_classes = dict.fromkeys(settings.label_names(config), NUM_CLASSES)
    setup = model_setup.abstract_setup(config, mesh, backbone, num_classes)
    if setup.model not in costs:
        costs[setup.model] = trace(setup)
    num_params, multiply_adds = costs[setup.model]
    expected_params, expected_multiply_adds = EXPECTED[name]
    assert num_params == expected_params
    assert multiply_adds / 1e9 == pytest.approx(expected_multiply_adds, rel=2e-3)
