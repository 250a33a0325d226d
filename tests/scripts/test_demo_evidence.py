"""Tests of the demo's check of attention maps: the mask of the shape, the table."""

import numpy as np
import pytest

from examples.demo import evidence, render_videos, scenes


@pytest.mark.parametrize("number", range(3))
def test_the_mask_is_where_the_shape_is_drawn(number):
    motion = "moving left"
    frames = render_videos.render_clip("val", number, motion, seed=7).astype(int)
    mask = render_videos.shape_mask("val", number, motion, seed=7)
    assert mask.shape == frames.shape[:3]
    inside = frames[mask == 1]
    distances = [  # to the colour and to the darker front half; the edge between them is a mixture
        np.abs(inside[:, None] - np.float32([colour, 0.35 * np.float32(colour)])).max(axis=-1).min(axis=-1)
        for colour in map(np.array, scenes.COLOURS.values())
    ]
    assert min(np.mean(distance > 1) for distance in distances) < 0.1
    background = 0.35 * 255  # the brightest background
    assert frames[mask == 0].max() <= background + 1


def test_the_table_counts_videos_with_more_weight_than_area():
    area = [0.1, 0.2, 0.3]
    first, second = (0.2, 0.1, 0.3), (0.05, 0.05, 0.4)  # two layers; the patches of the first have half of the weight
    shares = np.array([[(a, 0.5, c), (b, 1, c)] for a, b, c in zip(first, second, area, strict=True)])
    assert evidence.table(shares).splitlines() == [
        "3 videos; the shape covers 20.0% of the frame",
        "pooling layer 1: 20.0% of the weight is on the shape; more than its share of the area in 33.3% of the videos "
        "(all patches: 50.0% of the weight of all tokens)",
        "pooling layer 2: 16.7% of the weight is on the shape; more than its share of the area in 33.3% of the videos "
        "(all patches: 100.0% of the weight of all tokens)",
    ]
