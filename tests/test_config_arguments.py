"""The argument of a configuration file, --config=FILE.py:ARGUMENT."""

import pytest
from absl import flags
from ml_collections import config_flags

from dist_jax import command_line, config_arguments
from dist_jax.errors import UserError

CHOICES = {"model": ("vitb", "vitl"), "frames": (16, 32)}


def test_a_name_without_value_has_its_first_value():
    assert config_arguments.parse("", CHOICES) == {"model": "vitb", "frames": 16}
    assert config_arguments.parse("frames=32", CHOICES) == {"model": "vitb", "frames": 32}
    assert config_arguments.parse("frames=16,model=vitl", CHOICES) == {"model": "vitl", "frames": 16}


@pytest.mark.parametrize(
    "argument", ["frame=32", "frames=48", "frames", "32", "frames=032", " frames=32", "frames=32,"]
)
def test_an_unknown_name_or_value_is_refused_with_the_allowed_values(argument):
    with pytest.raises(UserError, match=r"^configuration argument '.*': must be model=vitb\|vitl, frames=16\|32$"):
        config_arguments.parse(argument, CHOICES)


def test_a_name_that_occurs_twice_is_refused():
    with pytest.raises(UserError, match=r"'frames=16,frames=32': frames occurs twice; must be model=vitb"):
        config_arguments.parse("frames=16,frames=32", CHOICES)


# FILE:ARGUMENT -> message.
INVALID = {
    "configs/k400_vitb.py:frames=8": r"^configuration argument 'frames=8': must be frames=16\|32\|64$",
    "configs/k710_vitl.py:frames=8": r"^--config: this file has no argument \(FILE.py:ARGUMENT\)",
}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections' flags
@pytest.mark.parametrize("file", INVALID)
def test_an_invalid_argument_of_a_file_is_refused_with_one_line(file, monkeypatch, request):
    with pytest.raises(UserError, match=INVALID[file]) as error:
        read(f"--config={request.config.rootpath / file}", monkeypatch)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_an_override_replaces_a_value_of_the_argument(monkeypatch, request):
    file = f"--config={request.config.rootpath / 'configs/finetune.py'}:model=vitl,frames=32"
    assert read(file, monkeypatch).model.num_frames == 32
    config = read(file, monkeypatch, "--config.model.num_frames=8")
    assert (config.model.num_frames, config.backbone.weights) == (8, "openai/clip-vit-large-patch14")


def read(file: str, monkeypatch: pytest.MonkeyPatch, *overrides: str):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", lock_config=True, flag_values=values)
    argv = ["main", file, *overrides]
    monkeypatch.setattr("sys.argv", argv)
    command_line.parse_flags(values, argv)
    return command_line.read_config(values, "...")
