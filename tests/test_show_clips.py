"""Tests of dist_jax.show_clips: the contact sheet of the network's inputs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models
from helpers.small_records import NUM_CLASSES, example, write_shards
from PIL import Image

from dist_jax import config as settings
from dist_jax import show_clips
from dist_jax.data import pipeline, sources
from dist_jax.errors import UserError
from dist_jax.training import augment
from dist_jax.weights import clip as clip_weights

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CLASS_NAMES = [f"class {k}" for k in range(NUM_CLASSES)]


@pytest.fixture
def pattern(tmp_path):
    return write_shards(tmp_path / "records", [example(record) for record in range(7)], shards=1)


@pytest.fixture
def config(pattern):
    config = settings.defaults()
    config.data.train = config.data.val = pattern
    config.batch_size, config.eval.batch_size, config.mix.group_size = 8, 4, 2
    config.model.num_frames, config.model.alpha = 4, 2
    return config


def test_training_clips_equal_the_inputs_of_the_training_step(config, tiny_model):
    source = sources.open_source(config.data, "train")
    clips = show_clips.training_clips(config, tiny_model, source, 2, 3)
    batch = next(itertools.islice(pipeline.train_batches(config, source, 0, slice(None), 8), 2, None))
    video, labels = jax.tree.map(jnp.asarray, (batch["video"], batch["labels"]))
    draws = augment.draw(config, 8, jnp.asarray(2))
    video, targets = augment.network_inputs(config, tiny_model.normalize, video, labels, {"label": NUM_CLASSES}, draws)
    np.testing.assert_array_equal(clips.video, video[:3])
    np.testing.assert_array_equal(clips.targets["label"], targets["label"][:3])
    np.testing.assert_array_equal(clips.record, batch["record"][:3])
    np.testing.assert_array_equal(clips.id, batch["id"][:3].astype(bytes))


def test_the_number_of_training_clips_is_limited_to_the_batch_size(config, tiny_model):
    config.mix.group_size = 32  # larger than the batch
    clips = show_clips.training_clips(config, tiny_model, sources.open_source(config.data, "train"), 0, 100)
    assert len(clips.video) == 8


def test_validation_clips_are_the_views_of_the_first_videos(config, tiny_model):
    source = sources.open_source(config.data, "val")
    clips = show_clips.validation_clips(config, tiny_model, source, 5)
    assert clips.video.shape == (5 * 3, 4, 8, 8, 3)
    assert clips.record.tolist() == np.repeat(range(5), 3).tolist()
    assert clips.targets["label"].argmax(1).tolist() == np.repeat([0, 1, 2, 3, 4], 3).tolist()
    assert len(show_clips.validation_clips(config, tiny_model, source, 100).video) == 7 * 3


def test_a_sheet_without_readable_videos_is_an_error(config, tiny_model, tmp_path):
    config.data.val = write_shards(tmp_path / "bad", [b"no record"] * 4, shards=1)
    config.data.max_bad_fraction = 1.0
    clips = show_clips.validation_clips(config, tiny_model, sources.open_source(config.data, "val"), 2)
    assert len(clips.video) == 0
    with pytest.raises(UserError, match="no clips to draw: the first videos are unreadable; repair"):
        show_clips.draw_sheet(clips, tiny_model.backbone, {"label": CLASS_NAMES}, str(tmp_path / "clips.png"))
    assert not (tmp_path / "clips.png").exists()


def test_denormalize_is_the_inverse_of_normalize(tiny_model):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), dtype=np.uint8)
    normalized = np.asarray(tiny_model.normalize(jnp.asarray(pixels)))
    np.testing.assert_array_equal(show_clips.denormalize(normalized, tiny_model.backbone), pixels)


def test_formatted_targets_name_the_mixed_classes_only():
    smoothed = np.array([0.02, 0.65, 0.02, 0.29, 0.02], np.float32)
    assert show_clips.format_targets(smoothed, CLASS_NAMES) == "class 1 65% + class 3 29%"
    assert show_clips.format_targets(np.eye(5)[2], CLASS_NAMES) == "class 2 100%"


@pytest.fixture
def arguments(tmp_path, pattern):
    """Command line for a small CLIP directory and the records of `pattern`."""
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    small_models.write_tokenizer(tmp_path / "clip")
    (tmp_path / "records" / "labels.txt").write_text("jump\nrun\nswim\nclap\nfall\n")
    (tmp_path / "small.py").write_text(
        "from dist_jax import config\n\n\ndef get_config():\n    return config.defaults()\n",
    )
    changes = {
        "backbone.weights": tmp_path / "clip",
        "data.train": pattern,
        "data.val": pattern,
        "batch_size": 8,
        "mix.group_size": 2,
        "model.num_frames": 4,
        "model.integration_width": 64,
        "mesh.data": 8,
    }
    return [
        "show_clips",
        f"--config={tmp_path / 'small.py'}",
        *(f"--config.{name}={value}" for name, value in changes.items()),
        f"--output={tmp_path / 'clips.png'}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("split", "num_clips"), [("train", 3), ("val", 9)])
def test_the_command_writes_the_image_and_the_arrays(arguments, tmp_path, capsys, monkeypatch, split, num_clips):
    monkeypatch.setattr("sys.argv", [*arguments, f"--split={split}", "--count=3", f"--npz={tmp_path / 'clips.npz'}"])
    show_clips.main()
    assert f"{num_clips} clips of {split}" in capsys.readouterr().out
    with Image.open(tmp_path / "clips.png") as image:
        assert image.height > image.width / 4 * num_clips / 2
    with np.load(tmp_path / "clips.npz", allow_pickle=False) as arrays:
        assert arrays["video"].shape == (num_clips, 4, 8, 8, 3)
        assert arrays["targets"].shape == (num_clips, NUM_CLASSES)
        np.testing.assert_allclose(arrays["targets"].sum(1), 1, rtol=1e-5)
        assert arrays["classes"].tolist() == ["jump", "run", "swim", "clap", "fall"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--count=0"], "count=0: 0 is not a positive integer"),
        (["--split=test"], "split"),
        (["--output=/nowhere/clips.png", "--count=1"], "/nowhere/clips.png"),
        (["--count=1", "--npz=/nowhere/clips.npz"], "npz=/nowhere"),
        (["--config.batch_sise=1"], "batch_size"),
        (["--config.batch_size=many"], "batch_size"),
        (["another"], "unexpected arguments another; example: --config"),
    ],
)
def test_invalid_arguments_raise_a_one_line_error(arguments, monkeypatch, extra, message):
    monkeypatch.setattr("sys.argv", [*arguments, *extra])
    with pytest.raises(UserError, match=message) as error:
        show_clips.main()
    assert "\n" not in str(error.value)


def test_a_missing_configuration_raises_an_error(monkeypatch):
    monkeypatch.setattr("sys.argv", ["show_clips"])
    with pytest.raises(UserError, match="--config is missing"):
        show_clips.main()
