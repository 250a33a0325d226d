"""Rows of training clips: random flips, erasing and labels."""

import numpy as np
import pytest

from dist_jax import config as settings
from dist_jax.data import clips
from dist_jax.data.clip_seed import ClipSeed
from dist_jax.data.source import StoredClip
from dist_jax.errors import UserError

COLUMNS = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None], (6, 24, 32, 3))  # each pixel is its column


def stored_clip(classes=(0,), **labels):
    """A clip of COLUMNS."""

    def frames(indices, window):
        top, left, height, width = window
        return COLUMNS[indices, top : top + height, left : left + width]

    labels = labels or {"label": np.array(classes, np.int64)}
    return StoredClip(6, 24, 32, labels, b"clip", frames)


def make_config(**augment):
    config = settings.defaults()
    config.model.num_frames = 2
    config.augment.update({"crop_scale": (1.0, 1.0), "crop_ratio": (4 / 3, 4 / 3), "erase_prob": 0.0} | augment)
    return config


def train_clip(config, record=0, clip=None, num_classes=5):
    """The row and the pixels, uint8 [2, 24, 24, 3]."""
    video = np.zeros((2, 24, 24, 3), np.uint8)
    clip = clip or stored_clip()
    row = clips.train_clip(config, {"label": num_classes}, clip, ClipSeed(0, 0, record), video)
    return row, video


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_clips_and_their_labels_flip_with_the_given_probability(probability, low, high):
    config = make_config(hflip_prob=probability, hflip_label_pairs=(0, 3))
    rows = [train_clip(config, record) for record in range(200)]
    flipped = [video[0, 0, 0, 0] > video[0, 0, -1, 0] for _, video in rows]
    assert low <= sum(flipped) <= high
    assert [int(row["labels"]["label"]) for row, _ in rows] == [3 if flip else 0 for flip in flipped]
    assert all(row["label_range"]["label"].tolist() == [0, 0] for row, _ in rows)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.25, 20, 80), (1.0, 200, 200)])
def test_clips_are_erased_with_the_given_probability(probability, low, high):
    config = make_config(hflip_prob=0.0, erase_prob=probability)
    plain = train_clip(make_config(hflip_prob=0.0))[1]
    erased = [not np.array_equal(train_clip(config, record)[1], plain) for record in range(200)]
    assert low <= sum(erased) <= high


def test_a_row_depends_only_on_the_seed():
    config = make_config(hflip_prob=0.5, erase_prob=0.5, crop_scale=(0.4, 1.0), rand_augment=(2, 9.0))
    for record in range(5):
        np.testing.assert_array_equal(train_clip(config, record)[1], train_clip(config, record)[1])
    assert len({train_clip(config, record)[1].tobytes() for record in range(20)}) == 20


def test_training_takes_a_random_label_and_evaluation_the_first():
    rng = np.random.default_rng(0)
    chosen = [clips.select_label(np.array([4, 7, 9]), rng) for _ in range(300)]
    assert all(60 < chosen.count(label) < 140 for label in (4, 7, 9))
    assert clips.select_label(np.array([7, 4, 9]), None) == 7
    assert clips.select_label(np.array([], np.int64), None) == clips.select_label(np.array([], np.int64), rng) == -1


def test_several_labels_are_a_row_of_booleans():
    config = make_config()
    config.data.multi_label = True
    row, _ = train_clip(config, clip=stored_clip((3, 1)))
    assert row["labels"]["label"].tolist() == [False, True, False, True, False]
    assert row["label_range"]["label"].tolist() == [1, 3]
    row, _ = train_clip(config, clip=stored_clip(()))
    assert not row["labels"]["label"].any()


def test_a_clip_with_other_labels_than_the_source_is_an_error():
    clip = stored_clip(verb=np.array([1]))
    with pytest.raises(UserError, match=r"the clip has the labels \['verb'\], expected \['label'\]"):
        train_clip(make_config(), clip=clip)
