"""Tests of dist_jax.inference.video_classifier: chosen frames, crops, averaged probabilities."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from helpers import small_models
from helpers.numbered_videos import frame_number, write_numbered
from helpers.small_models import CLASSES, DIST
from helpers.video_files import STEP, write_video

from dist_jax import convert
from dist_jax.inference.video_classifier import Prediction, choose_frames, classify_video, read_crops


@pytest.fixture
def video(tmp_path):
    """Forty flat frames of 64 x 48 pixels; frame i has the grey level STEP * i."""
    return write_video(tmp_path / "grey.mp4")


def test_segment_sampling_takes_one_point_of_each_segment():
    # Segments of 10 frames. View v of 2 takes the point (v+1)/2: 5, 15, ... and 10, 20, ...; the last one is clamped.
    frames = choose_frames(40, 4, small_models.eval_protocol(num_views=2))
    np.testing.assert_array_equal(frames, [[5, 15, 25, 35], [10, 20, 30, 39]])


def test_dense_sampling_takes_consecutive_frames_with_a_stride():
    # Every third frame. View 0 starts at 0, view 1 at half of the last possible start, (40 - 4 * 3) / 2.
    frames = choose_frames(40, 4, small_models.eval_protocol(num_views=2, sampling="dense", stride=3))
    np.testing.assert_array_equal(frames, [[0, 3, 6, 9], [14, 17, 20, 23]])


def test_crops_contain_the_chosen_frames_in_order_with_repetitions(video):
    frame_indices = np.array([[3, 3, 20], [39, 0, 3]])
    crops = read_crops(video, frame_indices, resolution=16, num_crops=3)
    assert (crops.shape, crops.dtype) == ((3, 2, 3, 16, 16, 3), np.uint8)
    levels = crops[1].mean(axis=(2, 3, 4)) / STEP
    np.testing.assert_array_equal(np.round(levels), frame_indices)


def test_crops_of_non_square_pixels_are_those_of_records_unless_an_option_keeps_them(tmp_path):
    path = write_numbered(tmp_path / "tall_pixels.mp4", num_frames=2, pixel_aspect=Fraction(1, 2))

    def central_number(square_pixels):
        return frame_number(read_crops(path, np.array([[1]]), 56, 1, square_pixels)[0, 0, 0])

    assert central_number(square_pixels=True) == 1
    assert central_number(square_pixels=False) == 0  # the crop has only the central half of the stored 128 pixels


@pytest.mark.parametrize("num_crops", [1, 3])
def test_probabilities_are_the_mean_over_views_and_crops(tmp_path, video, num_crops):
    tokenizer = small_models.write_tokenizer(tmp_path / "tokenizer")
    trained = convert.with_classes(small_models.model(tokenizer=tokenizer), CLASSES)
    protocol = small_models.eval_protocol(num_views=2, num_crops=num_crops)
    model = small_models.predictor(dataclasses.replace(trained, eval_protocol=protocol))
    prediction = classify_video(model, video, CLASSES, None, top=3)
    crops = read_crops(video, prediction.frame_indices, 8, num_crops)
    expected = np.mean(model.classify(crops.reshape(-1, *crops.shape[2:])), axis=0)  # all clips in one batch
    assert prediction.class_names == [CLASSES[k] for k in np.argsort(-expected)]
    np.testing.assert_allclose(prediction.probabilities, np.sort(expected)[::-1], rtol=1e-4)
    assert prediction.views.shape == (2, DIST.num_frames, 8, 8, 3)
    np.testing.assert_array_equal(prediction.views, crops[num_crops // 2])


@pytest.mark.parametrize(
    ("shape", "summary"),
    [((3, 8), "3 views of 8 frames"), ((1, 8), "1 view of 8 frames"), ((2, 1), "2 views of 1 frame")],
)
def test_the_summary_of_views_uses_singular_and_plural(shape, summary):
    frame_indices = np.zeros(shape, int)
    prediction = Prediction("x.mp4", frame_indices, np.zeros((*shape, 8, 8, 3), np.uint8), ["a"], np.ones(1))
    assert prediction.views_summary == summary
