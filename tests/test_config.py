"""Values that cannot be are refused before anything starts, each in words that name the field."""

import importlib
import re
from pathlib import Path

import pytest

from dist_jax import config as settings
from dist_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "seed=-1: must be between 0 and 2147483647"),
        ("batch_size", 0, "batch_size=0: must be at least 1"),
        ("accumulate", 3, "accumulate=3: must divide batch_size"),
        ("model.alpha", 3, "model.alpha=3: must divide model.frames"),
        ("model.selected", (2, 1), r"model.selected=\(2, 1\): must be increasing"),
        ("augment.crop_area", (0.0, 1.0), "augment.crop_area"),
        ("augment.rand_augment", (2, 11), "augment.rand_augment"),
        ("augment.rand_augment", (2.5, 9), "augment.rand_augment"),
        ("augment.flip_labels", (1, 2, 3), "must be pairs"),
        ("mix.group", 48, "mix.group=48: must be 1 or an even number that divides batch_size"),
        ("profile_steps", (3,), "must be empty or two steps"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name, value, message):
    config = settings.defaults()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        settings.validate(config)


def test_the_defaults_and_all_rand_augment_settings_are_valid():
    config = settings.defaults()
    settings.validate(config)
    config.augment.rand_augment = (2, 9.0)
    settings.validate(config)


# For every rule of config.validate a value that breaks it, by the field that the rule names.
BROKEN = {
    "seed": [2**31],
    "batch_size": [0],
    "accumulate": [0, 3],
    "epochs": [-1.0, 0.0],
    "steps": [-1],
    "ema": [1.0],
    "profile_steps": [(5, 3)],
    "clip.dtype": ["float16"],
    "model.dtype": ["float64"],
    "model.remat": ["all"],
    "model.frames": [0],
    "model.alpha": [0, 3],
    "model.selected": [(0, 0)],
    "model.integration_width": [100],
    "model.temporal_width": [0],
    "model.pooling_layers": [0],
    "data.source": ["folder"],
    "data.label": ["action"],
    "data.sampling": ["random"],
    "data.stride": [0],
    "data.resolution": [-1],
    "data.max_bad_fraction": [1.5],
    "data.threads": [-1],
    "data.prefetch": [0],
    "augment.crop_area": [(0.5, 1.1)],
    "augment.crop_aspect": [(2.0, 1.0)],
    "augment.flip": [1.1],
    "augment.flip_labels": [(1, 1)],
    "augment.grayscale": [-0.1],
    "augment.color_jitter": [2.0],
    "augment.rand_augment": [(0, 5)],
    "augment.erase": [2.0],
    "mix.mixup": [-0.1],
    "mix.cutmix": [-0.1],
    "mix.probability": [1.1],
    "mix.switch": [1.1],
    "mix.group": [0, 3],
    "mix.label_smoothing": [1.0],
    "optimizer.learning_rate": [0.0, float("nan")],
    "optimizer.warmup_epochs": [-1.0],
    "optimizer.warmup_rate": [-1.0],
    "optimizer.final_rate": [-1.0],
    "optimizer.beta1": [1.0],
    "optimizer.beta2": [-0.1],
    "optimizer.eps": [0.0],
    "optimizer.weight_decay": [-1.0],
    "optimizer.clip_norm": [-1.0],
    "optimizer.nonfinite": ["ignore"],
    "eval.every_epochs": [0.0],
    "eval.batch_size": [0],
    "eval.views": [0],
    "eval.crops": [2],
    "eval.fuse": [1.1],
    "checkpoint.every_steps": [0],
    "checkpoint.keep": [0],
    "checkpoint.best": ["loss"],
    "log.every_steps": [0],
    "log.slow_input": [1.1],
    "mesh.data": [0],
    "mesh.fsdp": [-2],
    "mesh.tensor": [0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BROKEN.items() for value in values])
def test_every_broken_value_is_named_with_what_it_may_be(name, value):
    config = settings.defaults()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=rf"^configuration: .*{re.escape(name)}={re.escape(repr(value))}: (must|only)"):
        settings.validate(config)


def test_every_rule_has_a_value_that_breaks_it():
    def breaks(allowed, changes):
        config = settings.defaults()
        config.update_from_flattened_dict(changes)
        return not allowed(config)

    tried = [{name: value} for name, values in BROKEN.items() for value in values]
    tried.append({"mesh.data": -1, "mesh.fsdp": -1})
    useless = [name for name, allowed, _ in settings._RULES if not any(breaks(allowed, changes) for changes in tried)]
    assert useless == []


def test_all_that_is_wrong_is_told_at_once():
    config = settings.defaults()
    config.update_from_flattened_dict({"mesh.data": -1, "mesh.fsdp": -1, "eval.views": 0})
    with pytest.raises(UserError, match=r"eval.views=0: must be at least 1; mesh.data=-1: only one of data, fsdp and "):
        settings.validate(config)


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[1].glob("configs/*.py")), ids=lambda file: file.stem)
def test_every_shipped_configuration_is_valid_and_adds_no_field(file):
    specification = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    config = module.get_config()
    settings.validate(config)
    assert config.is_locked
    assert settings.field_names(config) == settings.field_names(settings.defaults())
    assert "python -m dist_jax.main --config=configs/" + file.name in module.__doc__


def test_the_defaults_are_locked():
    config = settings.defaults()
    with pytest.raises(AttributeError, match="batch_sise"):
        config.batch_sise = 3
    with pytest.raises(AttributeError, match="learning_rat"):
        config.optimizer.learning_rat = 3


def test_every_default_has_a_comment_that_says_what_it_is():
    source = Path(settings.__file__).read_text()
    fields = re.findall(r"^ {8}(?: {4})?(\w+)=(.*)$", source.partition("def validate")[0], re.MULTILINE)
    assert len(fields) == len(settings.field_names(settings.defaults()))
    assert [name for name, rest in fields if not re.search(r",  # .{8,}", rest)] == []


def test_an_override_of_no_field_names_the_nearest():
    settings.check_overrides(["main", "--config=configs/demo.py", "--config.eval.views=2", "-config.seed", "3"])
    with pytest.raises(UserError, match=r"no field 'optimizer.learning_rat'; the nearest is 'optimizer.learning_rate'"):
        settings.check_overrides(["main", "--config.optimizer.learning_rat=1"])
