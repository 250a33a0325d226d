"""Paths of the flags and of the configuration: `~` is the home folder."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from dist_jax import command_line
from dist_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIG = """
from dist_jax import config


def get_config():
    c = config.defaults()
    c.data.val = "~/records/val"
    return c
"""


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parses flags of a program with --config and --output. HOME has the configuration small.py."""
    (tmp_path / "small.py").write_text(CONFIG)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", lock_config=True, flag_values=values)
        flags.DEFINE_string("output", "", "", flag_values=values)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        command_line.parse_flags(values, sys.argv)
        return values, command_line.read_config(values, "")

    return run


def test_a_tilde_is_the_home_folder(parse, tmp_path):
    values, config = parse("--config=~/small.py", "--output", "~/x.png", "--config.data.train=~/records/train@4")
    assert values.output == f"{tmp_path}/x.png"
    assert config.data.train == f"{tmp_path}/records/train@4"
    assert config.data.val == f"{tmp_path}/records/val"
    assert config.data.source == "records"


def test_a_path_that_is_not_utf8_is_rejected(parse):
    with pytest.raises(UserError, match="this path is not UTF-8"):
        parse("--config=~/small.py", "--output=caf\udce9.png")
