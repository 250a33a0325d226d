"""Tests of the start of a prediction: what it imports, the compilation cache, model directories without tracing."""

import json
import subprocess
import sys

import pytest
from helpers import small_models, training_run
from helpers.small_models import CLASSES
from helpers.video_files import write_video

from dist_jax import convert
from dist_jax.errors import UserError
from dist_jax.weights import model_directory, model_files
from dist_jax.workdir import text_feature_cache
from dist_jax.workdir.run_metadata import read_run_metadata

SLOW = ("tensorflow", "orbax", "matplotlib.pyplot", "transformers", "torch", "optax")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fast")
    tokenizer = small_models.write_tokenizer(folder / "tokenizer")
    model_directory.write(folder / "model", convert.with_classes(small_models.model(tokenizer=tokenizer), CLASSES))
    return folder / "model"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir as a training leaves it, with the text features of the classes."""
    folder = tmp_path_factory.mktemp("fast_run")
    workdir = small_models.write_workdir(folder / "run", training_run.save_clip(folder / "clip"))
    model = model_files.read_model(workdir)
    features = convert.with_classes(model, model.class_names).text_features
    text_feature_cache.write(workdir, read_run_metadata(workdir), {"label": features})
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "necessary"), [("directory", []), ("workdir", ["orbax"])])
def test_a_prediction_imports_no_slow_packages_and_fills_the_cache(kind, necessary, request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = request.getfixturevalue(kind)
    arguments = ["predict", "--model", str(model), "--video", write_video(tmp_path / "x.mp4")]
    code = (
        "import runpy, sys\n"
        f"sys.argv = {arguments}\n"
        "try:\n    runpy.run_module('dist_jax.predict', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {SLOW} if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "a dog" in process.stdout
    assert process.stdout.splitlines()[-1] == str(necessary)
    assert any((tmp_path / "dist_jax" / "compiled").iterdir())


def test_a_model_directory_is_checked_against_its_sizes(directory, tmp_path):
    config = json.loads((directory / "config.json").read_text())
    config["dist"]["temporal_width"] += 1
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model_directory.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="temporal_stem"):
        model_directory.read(tmp_path)
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    (tmp_path / "labels.txt").write_text("a\nb\n")  # two names, three text features
    with pytest.raises(UserError, match="other class names than the text features"):
        model_directory.read(tmp_path)
