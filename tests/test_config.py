"""Invalid settings, configuration files and overrides are refused with one line that names the field."""

import re
import sys
from pathlib import Path

import ml_collections
import pytest
from absl import flags
from helpers.config_files import load_module
from ml_collections import config_flags

from dist_jax import command_line
from dist_jax import config as settings
from dist_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "seed=-1: must be between 0 and 2147483647"),
        ("batch_size", 0, "batch_size=0: must be at least 1"),
        ("grad_accum_steps", 3, "grad_accum_steps=3: must divide batch_size"),
        ("model.alpha", 3, "model.alpha=3: must divide model.num_frames"),
        ("backbone.layers", (2, 1), r"backbone.layers=\(2, 1\): must be increasing"),
        ("augment.crop_scale", (0.0, 1.0), "augment.crop_scale"),
        ("augment.rand_augment", (2, 11), "augment.rand_augment"),
        ("augment.rand_augment", (2.5, 9), "augment.rand_augment"),
        ("augment.rand_augment", (2.0, 9), r"augment.rand_augment=\(2.0, 9\): .* an integer from 1 to 14"),
        ("augment.hflip_label_pairs", (1, 2, 3), "must be an even number of different class numbers"),
        ("mix.group_size", 48, "mix.group_size=48: must be 1, or an even number that divides batch_size"),
        ("profile_steps", (3,), "must be empty or two steps"),
        ("profile_steps", (0, 3), r"profile_steps=\(0, 3\): must be empty or two steps FIRST,LAST, counted from 1"),
        ("backbone.layers", ("a", "b"), r"backbone.layers=\('a', 'b'\): must be finite numbers"),
        ("backbone.layers", (1.5, 2.5), r"backbone.layers=\(1.5, 2.5\): must be increasing block numbers"),
        ("augment.hflip_label_pairs", (0.5, 1.5), "must be an even number of different class numbers"),
        ("augment.crop_scale", (0.5,), "must be two numbers"),
        ("augment.crop_ratio", (2.0, 1.0), r"must be two numbers \(low, high\) with 0 < low <= high$"),
        ("epochs", float("inf"), "epochs=inf: must be a finite number"),
        ("epochs", None, "epochs=None: must be a finite number"),
        ("eval.every_epochs", float("inf"), "eval.every_epochs=inf: must be a finite number"),
    ],
)
def test_an_invalid_value_is_refused_with_a_reason(name, value, message):
    config = settings.defaults()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        settings.validate(config)


def test_the_defaults_and_all_rand_augment_settings_are_valid():
    config = settings.defaults()
    settings.validate(config)
    config.augment.rand_augment = (2, 9.0)
    settings.validate(config)


# Field -> invalid values: at least one for every rule of config.validate.
INVALID = {
    "seed": [2**31],
    "batch_size": [0],
    "grad_accum_steps": [0, 3],
    "epochs": [-1.0, 0.0],
    "steps": [-1],
    "ema_decay": [1.0],
    "profile_steps": [(5, 3)],
    "backbone.dtype": ["float16"],
    "backbone.quantize": ["int4"],
    "model.dtype": ["float64"],
    "model.remat": ["all"],
    "model.num_frames": [0],
    "model.alpha": [0, 3],
    "backbone.layers": [(0, 0)],
    "model.integration_width": [100],
    "model.temporal_width": [0],
    "model.num_pooling_layers": [0],
    "data.label_key": ["action"],
    "data.sampling": ["random"],
    "data.stride": [0],
    "data.resolution": [-1],
    "data.max_bad_fraction": [1.5],
    "data.num_threads": [-1],
    "data.prefetch": [0],
    "augment.crop_scale": [(0.5, 1.1)],
    "augment.crop_ratio": [(2.0, 1.0)],
    "augment.hflip_prob": [1.1],
    "augment.hflip_label_pairs": [(1, 1)],
    "augment.grayscale_prob": [-0.1],
    "augment.color_jitter": [2.0],
    "augment.rand_augment": [(0, 5)],
    "augment.erase_prob": [2.0],
    "mix.mixup_alpha": [-0.1],
    "mix.cutmix_alpha": [-0.1],
    "mix.mix_prob": [1.1],
    "mix.switch_prob": [1.1],
    "mix.group_size": [0, 3],
    "mix.label_smoothing": [1.0],
    "optimizer.learning_rate": [0.0, float("nan")],
    "optimizer.warmup_epochs": [-1.0],
    "optimizer.warmup_init_lr": [-1.0],
    "optimizer.min_lr": [-1.0],
    "optimizer.beta1": [1.0],
    "optimizer.beta2": [-0.1],
    "optimizer.eps": [0.0],
    "optimizer.weight_decay": [-1.0],
    "optimizer.grad_clip_norm": [-1.0],
    "optimizer.nonfinite": ["ignore"],
    "eval.every_epochs": [0.0],
    "eval.batch_size": [0],
    "eval.num_views": [0],
    "eval.num_crops": [2],
    "eval.zero_shot_weight": [1.1],
    "checkpoint.save_every_steps": [0],
    "checkpoint.max_to_keep": [0],
    "log.every_steps": [0],
    "log.slow_input": [1.1],
    "mesh.data": [0],
    "mesh.fsdp": [-2],
    "mesh.tensor": [0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_every_invalid_value_is_named_with_the_allowed_values(name, value):
    config = settings.defaults()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=rf"^configuration: .*{re.escape(name)}={re.escape(repr(value))}: (must|only)"):
        settings.validate(config)


def test_all_invalid_fields_are_listed_in_one_message():
    config = settings.defaults()
    config.update_from_flattened_dict({"mesh.data": -1, "mesh.fsdp": -1, "eval.num_views": 0})
    with pytest.raises(
        UserError, match=r"eval.num_views=0: must be at least 1; mesh.data=-1: only one of data, fsdp and "
    ):
        settings.validate(config)


def published_config(name: str, batch_size: int) -> ml_collections.ConfigDict:
    config = load_module(Path(__file__).parents[1] / "configs" / f"{name}.py").get_config()
    config.batch_size = batch_size
    return config


def test_a_batch_smaller_than_a_mixing_group_is_one_group():
    for name in ("k400_vitb", "k400_vitl", "k710_vitl", "ssv2_vitb"):
        config = published_config(name, 8)
        settings.validate(config)
        assert settings.mix_group(config) == 8
    assert settings.mix_group(published_config("k400_vitb", 64)) == 32
    for batch_size in (7, 48):
        with pytest.raises(UserError, match=r"mix.group_size=32: must be 1, or an even number that divides batch_size"):
            settings.validate(published_config("k400_vitb", batch_size))


# Invalid configuration files: (text, expected message).
INVALID_FILES = {
    "no defaults": (
        "import ml_collections\ndef get_config(): return ml_collections.ConfigDict(dict(batch_size=3, lr=1))",
        "seed is missing, .*lr is unknown; start with dist_jax.config.defaults",
    ),
    "unknown field": ("def get_config():\n c = s.defaults().unlock()\n c.more = 3\n return c", "more is unknown"),
    "misspelt": (
        "def get_config():\n s.defaults().bach_size = 3",
        '^configuration: no such field. Did you mean "batch_',
    ),
    "wrong type": ('def get_config():\n s.defaults().batch_size = "many"', "Could not override field 'batch_size'"),
    "not a ConfigDict": ("def get_config(): return {}", "get_config returned a dict"),
    "no return": ("def get_config(): pass", "get_config returned a NoneType"),
    "no function": ("x = 1", "has no attribute 'get_config'"),
    "syntax": ("def get_config(:", r"SyntaxError: invalid syntax \(.*\.py, line 2\)"),
    "import": ("import nosuchmodule", "No module named 'nosuchmodule'"),
}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections' flags
@pytest.mark.parametrize("name", INVALID_FILES)
def test_an_invalid_configuration_file_is_refused_with_one_line(name, tmp_path, monkeypatch):
    text, message = INVALID_FILES[name]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", lock_config=True, flag_values=values)
    (tmp_path / "file.py").write_text(f"from dist_jax import config as s\n{text}\n")
    argv = ["main", f"--config={tmp_path / 'file.py'}"]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    with pytest.raises(UserError, match=message) as error:
        command_line.parse_flags(values, argv)
        command_line.read_config(values, "...")
    assert "\n" not in str(error.value)


def test_the_defaults_are_locked():
    config = settings.defaults()
    with pytest.raises(AttributeError, match="batch_sise"):
        config.batch_sise = 3
    with pytest.raises(AttributeError, match="learning_rat"):
        config.optimizer.learning_rat = 3


def test_an_override_of_an_unknown_field_names_the_nearest():
    settings.check_overrides(["main", "--config=configs/demo.py", "--config.eval.num_views=2", "-config.seed", "3"])
    with pytest.raises(UserError, match=r"no field 'optimizer.learning_rat'; the nearest is 'optimizer.learning_rate'"):
        settings.check_overrides(["main", "--config.optimizer.learning_rat=1"])
