"""predict: the recipe's frames, averaged views, a table, JSON and a picture; what cannot be read is said."""

import dataclasses
import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import CLASSES, DIST
from helpers.video_files import STEP, write_video

import dist_jax
from dist_jax import convert, predict
from dist_jax.errors import UserError
from dist_jax.weights import model_directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of two views, with three classes."""
    folder = tmp_path_factory.mktemp("predict")
    tokenizer = small_models.write_tokenizer(folder / "tokenizer")
    model = convert.with_classes(small_models.model(tokenizer=tokenizer), CLASSES)
    model_directory.write(folder / "model", dataclasses.replace(model, evaluation=small_models.evaluation(num_views=2)))
    return str(folder / "model")


@pytest.fixture
def video(tmp_path):
    """Forty flat frames of 64 x 48; frame i has the grey level STEP * i."""
    return write_video(tmp_path / "grey.mp4")


def test_the_recipes_frames():
    # Segments of 10 frames; view v of 2 takes their point (v+1)/2: 5, 15, ... and 10, 20, ..., the last one clamped.
    found = predict.choose_frames(40, 4, small_models.evaluation(num_views=2))
    np.testing.assert_array_equal(found, [[5, 15, 25, 35], [10, 20, 30, 39]])
    # Every third frame; view 0 starts at 0, view 1 half way to the last possible start (40 - 4 * 3) / 2.
    found = predict.choose_frames(40, 4, small_models.evaluation(num_views=2, sampling="dense", stride=3))
    np.testing.assert_array_equal(found, [[0, 3, 6, 9], [14, 17, 20, 23]])


def test_clips_hold_the_chosen_frames_however_often(video):
    indices = np.array([[3, 3, 20], [39, 0, 3]])
    clips = predict.read_clips(video, indices, resolution=16, num_crops=3)
    assert (clips.shape, clips.dtype) == ((3, 2, 3, 16, 16, 3), np.uint8)
    levels = clips[1].mean(axis=(2, 3, 4)) / STEP
    np.testing.assert_array_equal(np.round(levels), indices)


def test_probabilities_are_the_mean_over_views_and_crops(directory, video):
    model = dist_jax.load(directory)
    found = predict.predict(model, video, CLASSES, None, top=3)
    clips = predict.read_clips(video, found.indices, 8, num_crops=1)[0]
    wanted = np.mean(model.classify(clips), axis=0)  # both views in one batch
    assert found.names == [CLASSES[i] for i in np.argsort(-wanted)]
    np.testing.assert_allclose(found.probabilities, np.sort(wanted)[::-1], rtol=1e-4)
    assert found.frames.shape == (2, DIST.num_frames, 8, 8, 3)


def test_the_program(directory, video, tmp_path):
    other = write_video(tmp_path / "short.mp4", frames=3)
    command = [sys.executable, "-m", "dist_jax.predict", "--model", directory, "--video", video, "--video", other]
    outputs = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    done = subprocess.run([*command, *outputs, "--top", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{video} (2 views of 4 frames)" in done.stdout
    first, second = json.loads((tmp_path / "out.json").read_text())
    assert (first["video"], first["frames"]) == (video, [[5, 15, 25, 35], [10, 20, 30, 39]])
    assert [max(view) for view in second["frames"]] == [2, 2]
    likely = first["predictions"]
    assert len(likely) == 2
    assert likely[0]["probability"] >= likely[1]["probability"]
    assert f"{likely[0]['label']:<{max(len(x['label']) for x in likely)}}  {100 * likely[0]['probability']:5.1f} %" in (
        done.stdout
    )
    picture = matplotlib.image.imread(tmp_path / "out.png")
    assert picture.shape[1] == 12 * 110
    assert picture[..., :3].min() < 0.3


def test_other_labels(directory, video, capsys):
    predict.main(["--model", directory, "--video", video, "--labels", "a fox, a hen"])
    printed = capsys.readouterr().out
    assert "a fox" in printed
    assert "a dog" not in printed


def test_labels_with_commas_or_from_a_file(tmp_path):
    (tmp_path / "labels.txt").write_text("one, two\nthree\n")
    assert predict.read_labels(str(tmp_path / "labels.txt")) == ["one, two", "three"]
    assert predict.read_labels("one, two") == ["one", "two"]
    many = [f"class {number}" for number in range(99)]  # longer than a file's name can be
    assert predict.read_labels(",".join(many)) == many
    with pytest.raises(UserError, match=r"nowhere\.txt: no such file"):
        predict.read_labels(str(tmp_path / "nowhere.txt"))
    for wrong in ("a,,b", "a,a"):
        with pytest.raises(UserError, match="a name is empty or there twice"):
            predict.read_labels(wrong)


def test_the_montage_keeps_every_frame_whole():
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 6, 7, 3), dtype=np.uint8)
    picture = predict.montage(frames, columns=3, gap=2)
    # Two lines of three, 2 pixels apart, for each view; 8 pixels (4 gaps) between views.
    assert picture.shape == (2 * (6 + 2 + 6) + 8, 3 * 7 + 2 * 2, 3)
    np.testing.assert_array_equal(picture[:6, :7], frames[0, 0])
    np.testing.assert_array_equal(picture[8:14, 9:16], frames[0, 4])
    np.testing.assert_array_equal(picture[22:28, 18:25], frames[1, 2])
    assert (picture[8:14, 18:] == 255).all()


def test_a_video_that_cannot_be_read_does_not_hide_the_others(directory, video, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = [tmp_path / "broken.mp4", video, tmp_path / "absent.mp4"]
    arguments = [part for path in videos for part in ("--video", str(path))]
    with pytest.raises(
        UserError, match=r"^2 of 3 videos could not be read: .*broken\.mp4: .*; .*absent\.mp4: "
    ) as error:
        predict.main(["--model", directory, *arguments, "--json", str(tmp_path / "out.json")])
    assert "\n" not in str(error.value)
    assert "grey.mp4 (2 views" in capsys.readouterr().out
    assert [one["video"] for one in json.loads((tmp_path / "out.json").read_text())] == [video]


def test_a_picture_of_many_videos_goes_on_in_other_files(tmp_path, monkeypatch):
    frames = np.zeros((1, 4, 8, 8, 3), np.uint8)
    one = predict.Prediction("x.mp4", np.zeros((1, 4), int), frames, ["a"], np.ones(1, np.float32))
    monkeypatch.setattr(predict, "PAGE_INCHES", 6)  # of which a video takes 2.8
    pages = predict.Pages(str(tmp_path / "out.png"))
    for _ in range(3):
        pages.add(one)
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]  # drawn when the second one began
    pages.finish()
    first, second = (matplotlib.image.imread(tmp_path / name).shape[0] for name in ("out.png", "out-2.png"))
    assert first > 1.7 * second


def test_a_picture_that_is_too_high_is_drawn_smaller(tmp_path, monkeypatch):
    frames = np.zeros((1, 4, 8, 8, 3), np.uint8)
    one = predict.Prediction("x.mp4", np.zeros((1, 4), int), frames, ["a"], np.ones(1, np.float32))
    monkeypatch.setattr(predict, "LARGEST_INCHES", 1)
    predict.plot([one], str(tmp_path / "out.png"))
    assert matplotlib.image.imread(tmp_path / "out.png").shape[0] <= predict.DPI + 1


def test_what_cannot_be_is_said(directory, video, tmp_path):
    with pytest.raises(UserError, match="--top 0: must be at least 1"):
        predict.main(["--model", directory, "--video", video, "--top", "0"])
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"broken\.mp4"):
        predict.main(["--model", directory, "--video", str(tmp_path / "broken.mp4")])
    with pytest.raises(UserError, match=r"out\.abc"):
        predict.main(["--model", directory, "--video", video, "--plot", str(tmp_path / "out.abc")])
    with pytest.raises(UserError, match=r"--json .*no/where\.json"):
        predict.main(["--model", directory, "--video", video, "--json", str(tmp_path / "no" / "where.json")])
    model_directory.write(tmp_path / "plain", small_models.model())
    with pytest.raises(UserError, match=r"has no class names of its own; give --labels"):
        predict.main(["--model", str(tmp_path / "plain"), "--video", video])
