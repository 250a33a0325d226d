"""Video files as a source of clips."""

from fractions import Fraction

import numpy as np
import pytest
from helpers.numbered_videos import frame_numbers, write_numbered, write_with_sound
from helpers.small_records import decoded

from dist_jax import config as settings
from dist_jax.data import sources


def open_videos(folder, text, square_pixels=True):
    """Opens the clips of a CSV list."""
    (folder / "list.csv").write_text(text)
    config = settings.defaults()
    config.data.update(source="videos", train=str(folder / "list.csv"), square_pixels=square_pixels)
    return sources.open_source(config.data, "train")


def read_frames(source, record=0):
    return decoded(source.read(record))


@pytest.mark.parametrize(("square_pixels", "width"), [(True, 171), (False, 128)])
def test_non_square_pixels_become_square_unless_a_setting_keeps_them(square_pixels, width, tmp_path):
    write_numbered(tmp_path / "a.mp4", num_frames=3, pixel_aspect=Fraction(4, 3))
    source = open_videos(tmp_path, "path,label\na.mp4,run\n", square_pixels)
    assert read_frames(source).shape == (3, 64, width, 3)


def test_times_count_from_the_start_of_the_file(tmp_path):
    write_with_sound(tmp_path / "a.mp4", "libx264", delay=0.5)
    source = open_videos(tmp_path, "path,label,start,end\na.mp4,run,1.0,1.2\na.mp4,walk,,0.6\n")
    assert frame_numbers(read_frames(source, 0)) == [13, 14, 15, 16, 17]
    assert frame_numbers(read_frames(source, 1)) == [0, 1, 2]


def test_times_that_matroska_rounds_select_the_frames_that_build_records_selects(tmp_path):
    write_numbered(tmp_path / "a.mkv", rate=Fraction(30))
    source = open_videos(tmp_path, "path,label,start,end\na.mkv,run,0.3333333,0.6666667\n")
    assert frame_numbers(read_frames(source)) == list(range(10, 20))


@pytest.mark.parametrize("numbers", [[0, 3, 3, 9], [5], [9, 2, 2, 0, 9]])
def test_frames_are_those_of_the_numbers_in_any_order(numbers, tmp_path):
    write_numbered(tmp_path / "a.mp4", num_frames=12)
    clip = open_videos(tmp_path, "path,label,start\na.mp4,run,0.05\n").read(0)
    every = decoded(clip)
    np.testing.assert_array_equal(decoded(clip, numbers, [8, 4, 30, 20]), every[numbers, 8:38, 4:24])


def test_labels_are_those_of_the_list(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    source = open_videos(tmp_path, "path,labels,end\na.mp4,run|jump,1\na.mp4,jump,2\n")
    assert [source.labels(record)["label"].tolist() for record in range(2)] == [[1, 0], [0]]
