import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.numbered_videos import frame_number, set_display_matrix, write_numbered

from dist_jax.video.decoding import VideoError, decode_frames, iter_frames, probe
from dist_jax.video.geometry import Orientation, from_display_matrix

CASES = Path(__file__).parents[1] / "cases"
# Display matrix (a, b, c, d), and what ffmpeg 5.1's autorotation does with the stored frame.
ORIENTATIONS = {
    "upright": ((1, 0, 0, 1), lambda frame: frame),
    "mirrored left-right": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "mirrored top-bottom": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "turned by 180 degrees": ((-1, 0, 0, -1), lambda frame: frame[::-1, ::-1]),
    "turned clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "turned counterclockwise": ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
    "transposed": ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    "transposed along the other diagonal": ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_all_orientations_of_a_display_matrix(name, tmp_path):
    matrix, expected = ORIENTATIONS[name]
    path = write_numbered(tmp_path / "a.mp4", num_frames=3)
    stored = decode_frames(path, range(3))
    set_display_matrix(path, *matrix)
    shown = [frame for _, frame in iter_frames(path)]
    np.testing.assert_array_equal(shown, [expected(frame) for frame in stored])
    np.testing.assert_array_equal(shown, decode_frames(path, range(3)))
    assert (probe(path).height, probe(path).width) == shown[0].shape[:2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mirror_hflip.mp4", lambda frame: frame[:, ::-1]),
        ("mirror_vflip.mp4", lambda frame: frame[::-1]),
        ("mirror_transpose.mp4", lambda frame: frame.swapaxes(0, 1)),
    ],
)
def test_mirrored_cases(name, expected):
    upright = decode_frames(str(CASES / "upright.mp4"), range(12))
    np.testing.assert_array_equal(decode_frames(str(CASES / name), range(12)), [expected(frame) for frame in upright])


def test_a_display_matrix_with_scale_or_a_small_angle_is_rounded_to_quarter_turns():
    def matrix(a, b, c, d):
        return struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)

    assert from_display_matrix(matrix(2, 0, 0, 2)) == Orientation()
    assert from_display_matrix(matrix(100, -3, 3, 100)) == Orientation()
    assert from_display_matrix(matrix(-3, 100, -100, -3)) == Orientation(True, False, True)
    assert from_display_matrix(matrix(0, 0, 0, 0)) == Orientation()
    assert from_display_matrix(matrix(-1, -1, -1, -1)) == Orientation()


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "prores")]
)
@pytest.mark.parametrize(("pixel_aspect", "width"), [(Fraction(4, 3), 171), (Fraction(1, 2), 64), (Fraction(1), 128)])
def test_non_square_pixels_become_square(name, codec, pixel_aspect, width, tmp_path):
    path = write_numbered(tmp_path / name, codec, num_frames=3, pixel_aspect=pixel_aspect)
    frames = decode_frames(path, range(3))
    assert frames.shape == (3, 64, width, 3)
    assert [frame_number(frame) for frame in frames] == [0, 1, 2]
    assert (probe(path).width, probe(path).height) == (width, 64)
    assert next(iter_frames(path, short_side=32))[1].shape == (32, 2 * round(width / 4), 3)


def test_stored_pixels_can_be_kept(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", num_frames=2, pixel_aspect=Fraction(2))
    assert decode_frames(path, [0], square_pixels=False).shape == (1, 64, 128, 3)
    assert next(iter_frames(path, square_pixels=False))[1].shape == (64, 128, 3)
    assert (probe(path, square_pixels=False).width, probe(path).width) == (128, 256)


def test_the_pixel_aspect_is_that_of_stored_pixels_before_rotation(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", num_frames=2, pixel_aspect=Fraction(2))
    set_display_matrix(path, 0, 1, -1, 0)
    assert decode_frames(path, [0]).shape == (1, 256, 64, 3)
    assert (probe(path).width, probe(path).height) == (64, 256)


def test_an_extreme_pixel_aspect_is_an_error_that_names_the_flag(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", num_frames=2, pixel_aspect=Fraction(20))
    for read in (probe, lambda path: list(iter_frames(path)), lambda path: decode_frames(path, [0])):
        with pytest.raises(VideoError, match=r"pixel aspect ratio 20 is not .*--no-square-pixels"):
            read(path)
    assert probe(path, square_pixels=False).width == 128
