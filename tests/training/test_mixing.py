"""Mixup and CutMix: hand-computed cases and properties."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.training import mixing


def mix_config(**changes) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        dict(mixup_alpha=0.8, cutmix_alpha=1.0, mix_prob=1.0, switch_prob=0.5, group_size=2) | changes
    )


def test_mixup_of_a_group_of_two_equals_the_hand_computed_result():
    video = jnp.asarray([10.0, 20.0]).reshape(2, 1, 1, 1, 1) * jnp.ones((2, 1, 2, 2, 3))
    targets = jnp.eye(2)
    draw = mixing.MixDraw(jnp.asarray([0.75]), jnp.zeros((1, 4), jnp.int32), jnp.asarray([0.75]))
    mixed, mixed_targets = mixing.apply(video, targets, draw)
    np.testing.assert_allclose(mixed[:, 0, 0, 0, 0], [12.5, 17.5])
    np.testing.assert_allclose(mixed_targets, [[0.75, 0.25], [0.25, 0.75]])


def test_cutmix_pastes_the_partners_box_into_all_frames():
    video = jnp.asarray([1.0, 2.0]).reshape(2, 1, 1, 1, 1) * jnp.ones((2, 3, 4, 4, 3))
    draw = mixing.MixDraw(jnp.asarray([0.75]), jnp.asarray([[0, 1, 2, 3]]), jnp.ones(1))
    mixed, targets = mixing.apply(video, jnp.eye(2), draw)
    box = np.zeros((4, 4), bool)
    box[0:2, 1:3] = True
    for frame in range(3):
        np.testing.assert_array_equal(mixed[0, frame, :, :, 0], np.where(box, 2, 1))
        np.testing.assert_array_equal(mixed[1, frame, :, :, 2], np.where(box, 1, 2))
    np.testing.assert_allclose(targets, [[0.75, 0.25], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("target_weight", "expected"),
    [(0.25, [[1, 1, 0.1], [1, 1, 0.1]]), (1.0, [[1, 0, 0.1], [0, 1, 0.1]]), (0.0, [[0, 1, 0.1], [1, 0, 0.1]])],
)
def test_targets_of_several_labels_are_united_if_both_clips_are_visible(target_weight, expected):
    targets = jnp.asarray([[1, 0, 0.1], [0, 1, 0.1]])
    draw = mixing.MixDraw(jnp.asarray([target_weight]), jnp.zeros((1, 4), jnp.int32), jnp.asarray([target_weight]))
    _, united = mixing.apply(jnp.ones((2, 1, 2, 2, 3)), targets, draw, union=True)
    np.testing.assert_allclose(united, expected)


def test_each_group_is_mixed_with_its_own_reverse():
    video = jnp.arange(6.0).reshape(6, 1, 1, 1, 1)
    only_partner = mixing.MixDraw(jnp.zeros(2), jnp.zeros((2, 4), jnp.int32), jnp.zeros(2))
    mixed, _ = mixing.apply(video, jnp.ones((6, 2)), only_partner)
    np.testing.assert_array_equal(mixed.ravel(), [2, 1, 0, 5, 4, 3])


@pytest.mark.parametrize(
    ("group_size", "expected"),
    [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (2, [0, 1, 2, 3, 4, 5, 6, 7]), (4, [0, 3, 1, 2, 4, 7, 5, 6])],
)
def test_the_clips_of_a_pair_are_neighbours_in_a_batch(group_size, expected):
    assert mixing.order(8, group_size).tolist() == expected


@given(num_groups=st.integers(1, 4), num_pairs=st.integers(1, 20))
def test_the_pairs_of_a_batch_are_the_pairs_of_its_groups(num_groups, num_pairs):
    group_size, batch_size = 2 * num_pairs, 2 * num_pairs * num_groups
    rows = mixing.order(batch_size, group_size)
    assert sorted(rows) == list(range(batch_size))
    partners = np.arange(batch_size).reshape(num_groups, group_size)[:, ::-1].reshape(-1)  # of each row
    np.testing.assert_array_equal(rows.reshape(-1, 2)[:, ::-1].reshape(-1), partners[rows])
    np.testing.assert_array_equal(rows // group_size, np.arange(batch_size) // group_size)


@functools.cache
def jitted_draw(size: tuple[int, int]):
    return jax.jit(lambda key: mixing.draw(key, 4, size, mix_config()))


@pytest.mark.slow
@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([(4, 40), (40, 7), (32, 32)]))
def test_the_target_weight_is_the_mean_pixel_weight(seed, size):
    height, width = size
    draws = jitted_draw(size)(jax.random.key(seed))
    white, black = jnp.ones((1, 1, height, width, 1)), jnp.zeros((1, 1, height, width, 1))
    mixed, _ = mixing.apply(jnp.concatenate([white, black] * 4), jnp.zeros((8, 2)), draws)
    np.testing.assert_allclose(mixed[::2].mean(axis=(1, 2, 3, 4)), draws.target_weight, atol=1e-5)
    assert np.all((draws.target_weight >= 0) & (draws.target_weight <= 1))
    boxes = np.asarray(draws.box)
    assert np.all(boxes >= 0)
    assert np.all(boxes[:, 2] <= height)
    assert np.all(boxes[:, 3] <= width)


def draw_2000(**changes) -> mixing.MixDraw:
    """Draws for 2000 groups of 32 x 32 pixels."""
    return mixing.draw(jax.random.key(0), 2000, (32, 32), mix_config(**changes))


def test_switch_prob_is_the_share_of_cutmix():
    draws = draw_2000()
    is_cutmix = np.asarray(draws.pixel_weight) == 1.0
    assert 0.45 < is_cutmix.mean() < 0.55
    assert np.all(np.asarray(draws.box)[~is_cutmix] == 0)


def test_an_alpha_or_mix_prob_of_zero_disables_mixing():
    assert np.all(draw_2000(cutmix_alpha=0.0).box == 0)
    assert np.all(draw_2000(mixup_alpha=0.0).pixel_weight == 1)
    assert np.all(draw_2000(mix_prob=0.0).target_weight == 1)
    assert np.all(draw_2000(mixup_alpha=0.0, cutmix_alpha=0.0).target_weight == 1)


@pytest.mark.parametrize("alpha", [0.8, 1.0])
def test_mixup_weights_follow_the_beta_distribution(alpha):
    draws = mixing.draw(jax.random.key(1), 2000, (8, 8), mix_config(mixup_alpha=alpha, cutmix_alpha=0.0))
    weights = np.asarray(draws.target_weight)
    assert abs(weights.mean() - 0.5) < 0.025
    assert abs(weights.var() - 1 / (4 * (2 * alpha + 1))) < 0.007  # variance of Beta(alpha, alpha)
