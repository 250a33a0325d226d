"""The demo's data: rendering, independence of class and single frames, tokenizers, tiny backbones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_jax.errors import UserError
from dist_jax.text import tokenizer
from dist_jax.text.siglip_tokenizer import SiglipTokenizer
from dist_jax.video import video_list
from dist_jax.weights import backbones
from examples.demo import bpe, render_videos, scenes, stills, train_tiny_backbone
from examples.demo.tiny_backbones import KINDS

CLASSES = sorted(scenes.MOTIONS)
MIRRORED = {"moving left": "moving right", "turning clockwise": "turning counter-clockwise"}


def poses_by_class(num_clips: int) -> np.ndarray:
    """Poses float [K, num_clips, NUM_FRAMES, 4]."""
    rng = np.random.default_rng(7)
    return np.array(
        [[scenes.random_poses(rng, name, render_videos.NUM_FRAMES) for _ in range(num_clips)] for name in CLASSES]
    )


def test_classes_are_eight_or_more_opposite_pairs():
    assert len(CLASSES) >= 8
    directions = {(axis, direction) for axis, direction in scenes.MOTIONS.values()}
    assert all((axis, -direction) in directions for axis, direction in directions)


def test_a_class_changes_one_pose_component_monotonically():
    for name, clips in zip(CLASSES, poses_by_class(20), strict=True):
        axis, direction = scenes.MOTIONS[name]
        steps = np.diff(clips, axis=1)  # [clips, NUM_FRAMES - 1, 4]
        assert np.all(direction * steps[:, :, axis] > 0)
        assert np.all(np.delete(steps, axis, axis=2) == 0)
        assert np.all((clips >= 0) & (clips <= 1))


def linear_accuracy(poses: np.ndarray) -> float:
    """Held-out accuracy of a linear classifier on poses [K, n, 4], their squares and products."""
    classes, count, _ = poses.shape
    pairs = np.triu_indices(4)
    poses = poses - 0.5
    products = (poses[..., :, None] * poses[..., None, :])[..., pairs[0], pairs[1]]
    features = np.concatenate([np.ones_like(poses[..., :1]), poses, products], axis=2)  # [K, n, 15]
    labels = np.broadcast_to(np.eye(classes)[:, None], (classes, count, classes))
    train, test = np.s_[:, : count // 2], np.s_[:, count // 2 :]
    kernel, *_ = np.linalg.lstsq(features[train].reshape(-1, 15), labels[train].reshape(-1, classes))
    return float(np.mean(np.argmax(features[test] @ kernel, axis=2) == np.arange(classes)[:, None]))


def test_a_random_frame_does_not_predict_the_class():
    poses = poses_by_class(600)  # [K, 600, NUM_FRAMES, 4]
    frame = np.random.default_rng(8).integers(render_videos.NUM_FRAMES, size=poses.shape[:2])
    random_frames = np.take_along_axis(poses, frame[:, :, None, None], axis=2)[:, :, 0]  # [K, 600, 4]
    chance, count = 1 / len(CLASSES), 300 * len(CLASSES)
    assert abs(linear_accuracy(random_frames) - chance) < 4 * np.sqrt(chance * (1 - chance) / count)


def test_the_accuracy_from_a_known_frame_index_stays_at_the_documented_limit():
    """scenes.py documents 0.56 for the first frame and 0.18 for the middle frame."""
    poses = poses_by_class(600)
    assert linear_accuracy(poses[:, :, 0]) < 0.62
    assert linear_accuracy(poses[:, :, -1]) < 0.62
    assert linear_accuracy(poses[:, :, render_videos.NUM_FRAMES // 2]) < 0.24


def test_opposite_motions_have_the_same_distribution_of_frames():
    """A clip in reverse order is equally likely, so the average over its frames does not predict the direction."""
    clips = dict(zip(CLASSES, poses_by_class(2000), strict=True))
    for name, opposite in MIRRORED.items():
        first, second = np.sort(clips[name].mean(axis=1), axis=0), np.sort(clips[opposite].mean(axis=1), axis=0)
        # Two-sample Kolmogorov-Smirnov test at the 1e-4 level.
        for x, y in zip(first.T, second.T, strict=True):
            distance = np.abs(np.searchsorted(y, x, side="right") - np.arange(1, len(x) + 1)).max() / len(x)
            assert distance < 2.23 * np.sqrt(2 / len(x))


def test_a_flipped_clip_has_the_class_given_by_hflip_label_pairs():
    """A flip mirrors x and angle; configs/demo.py lists the pairs."""
    from configs import demo

    pairs = np.reshape(demo.get_config().augment.hflip_label_pairs, (-1, 2))
    assert {CLASSES[a]: CLASSES[b] for a, b in pairs} == MIRRORED
    scene = scenes.random_scene(np.random.default_rng(1))
    scene = scenes.Scene(scene.shape, scene.colour, scene.ground, scene.texture * 0, (0, 0), (0, 0), (0, 0))
    pose = np.array([[0.2, 0.4, 0.7, 0.1]])
    mirrored = pose * [-1, 1, 1, -1] + [1, 0, 0, 1]
    original, mirror = (scenes.draw(scene, p, 80, 96).astype(int) for p in (pose, mirrored))
    assert np.abs(original - mirror[:, :, ::-1]).max() <= 2


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_a_larger_size_covers_more_pixels_of_any_shape(shape):
    rng = np.random.default_rng(3)
    scene = scenes.random_scene(rng)
    scene = scenes.Scene(shape, "white", "blue", scene.texture, scene.camera, scene.pan, scene.shake)
    small, large = (scenes.draw(scene, np.array([[0.5, 0.5, size, 0.5]]), 80, 96) for size in (0, 1))
    bright_small, bright_large = (np.sum(frames.min(axis=-1) > 200) for frames in (small, large))
    assert 0 < bright_small * 3 < bright_large


def test_videos_do_not_depend_on_the_number_of_workers_and_classes_are_balanced(tmp_path):
    for workers in (1, 2):
        render_videos.render_split(tmp_path / str(workers), "val", 9, seed=5, workers=workers)
    one, two = ((tmp_path / name / "val").glob("*.mp4") for name in "12")
    contents = [[path.read_bytes() for path in sorted(files)] for files in (one, two)]
    assert len(contents[0]) == 9 and contents[0] == contents[1]
    assert len(set(contents[0])) == 9
    clips = video_list.read_list(str(tmp_path / "1" / "val.txt"), None)
    assert [clip.path for clip in clips] == [f"val/{i:05d}.mp4" for i in range(9)]
    counts = np.unique([clip.label for clip in clips], return_counts=True)
    assert list(counts[0]) == CLASSES and sorted(counts[1]) == [1] * 7 + [2]


def test_an_mp4_contains_the_drawn_frames(tmp_path):
    from examples.demo.report import read_frames

    frames = render_videos.render_clip("train", 0, "moving up", seed=1)
    assert frames.shape == (render_videos.NUM_FRAMES, render_videos.HEIGHT, render_videos.WIDTH, 3)
    render_videos.write_mp4(str(tmp_path / "x.mp4"), frames)
    read = np.array(read_frames(tmp_path / "x.mp4", render_videos.NUM_FRAMES))
    assert np.abs(read.astype(int) - frames).mean() < 6


def test_a_data_set_with_other_settings_is_refused(tmp_path):
    counts = {"train": 8, "val": 8}
    assert not render_videos.finished(tmp_path, counts, seed=0)
    render_videos.write_settings(tmp_path, counts, seed=0)
    assert render_videos.finished(tmp_path, counts, seed=0)
    with pytest.raises(UserError, match="use another --output"):
        render_videos.finished(tmp_path, counts, seed=1)


def test_the_most_frequent_pair_is_merged_first():
    # "lo" 4 times, "ow</w>" 3 times, "ow" once; then "lo"+"w</w>" 3 times.
    assert bpe.learn_merges(["low low low lower"], 2) == [("l", "o"), ("lo", "w</w>")]


def test_transformers_loads_the_tokenizer_and_any_text_round_trips(tmp_path):
    merges = bpe.learn_merges(["a red circle", *scenes.MOTIONS], 200)
    bpe.save_clip_tokenizer(tmp_path, merges, context_length=16)
    clip_tokenizer = tokenizer.load(str(tmp_path))
    assert len(clip_tokenizer) == len(bpe.vocabulary(merges, bpe.CLIP_TOKENS)) == 2 * 256 + len(merges) + 2
    tokens = tokenizer.encode(clip_tokenizer, ["Moving  LEFT", "größer 猫"], context=16)
    vocabulary = bpe.vocabulary(merges, bpe.CLIP_TOKENS)
    words = [vocabulary[word] for word in (bpe.START, "moving</w>", "left</w>", bpe.END)]
    assert list(tokens[0][:4]) == words
    assert clip_tokenizer.decode(tokens[1], skip_special_tokens=True) == "größer 猫"


def test_siglip_s_tokenizer_has_clip_s_words_without_a_start_token(tmp_path):
    merges = bpe.learn_merges(["a red circle", *scenes.MOTIONS], 200)
    for kind, save in (("clip", bpe.save_clip_tokenizer), ("siglip", bpe.save_siglip_tokenizer)):
        (tmp_path / kind).mkdir()
        save(tmp_path / kind, merges, context_length=16)
    texts = ["Moving  LEFT", "größer 猫, counter-clockwise"]
    clip_tokenizer = tokenizer.load(str(tmp_path / "clip"))
    siglip_tokenizer = SiglipTokenizer(str(tmp_path / "siglip"))
    end = bpe.vocabulary(merges, bpe.SIGLIP_TOKENS)["</s>"]
    assert siglip_tokenizer.vocab_size == end + 1
    for words, row in zip(clip_tokenizer(texts)["input_ids"], siglip_tokenizer.encode(texts, 16), strict=True):
        words = words[1:-1]  # without start and end
        assert row.tolist() == words + [end] * (16 - len(words))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Both directions: rows (0, ln 3) and (ln 3, ln 3), columns (0, ln 3) and (ln 3, ln 3); the scale is 1.
        ("clip", (np.log(4) + np.log(2)) / 2),
        # Matches at logits -1 and ln 3 - 1, others at ln 3 - 1 twice; the sum over texts, the mean over images.
        ("siglip", np.mean([np.log1p(np.e) + np.log1p(3 / np.e), np.log1p(np.e / 3) + np.log1p(3 / np.e)])),
    ],
)
def test_the_loss_of_two_pairs(kind, expected):
    cosines = jnp.array([[0, np.log(3)], [np.log(3), np.log(3)]])
    loss = KINDS[kind].loss(cosines, {"logit_scale": jnp.zeros(()), "logit_bias": -jnp.ones(())})
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_backbone_loads_as_a_published_one(tmp_path, monkeypatch, kind):
    arguments = ["--kind", kind, "--output", str(tmp_path), "--steps", "2", "--stills", "64"]
    monkeypatch.setattr("sys.argv", ["train_tiny_backbone", *arguments])
    with jax.numpy_dtype_promotion("standard"):  # optax's AdamW does not support "strict"
        train_tiny_backbone.main()
    loaded = backbones.load(str(tmp_path))
    assert (loaded.kind, loaded.vision) == (kind, KINDS[kind].vision)
    assert np.exp(loaded.params["logit_scale"]) == pytest.approx(100)
    assert loaded.encode_texts(list(scenes.MOTIONS)).shape == (8, loaded.vision.embed_dim)
    monkeypatch.setattr("sys.argv", ["train_tiny_backbone", *arguments, "--seed", "1"])
    with pytest.raises(UserError, match=r"was trained with .* use another --output"):
        train_tiny_backbone.main()


def test_captions_describe_the_pose_and_no_motion():
    rng = np.random.default_rng(2)
    images, captions = stills.captioned_stills(rng, 20, resolution=32)
    assert images.shape == (20, 32, 32, 3) and images.dtype == np.uint8 and len(captions) == 20
    scene = scenes.random_scene(rng)
    texts = {stills.caption(rng, scene, np.array([0.1, 0.9, 0.4, 0.99])) for _ in range(200)}
    parts = ["leftmost", "bottom", "small", "turned clockwise", f"{scene.colour} {scene.shape}"]
    assert texts == {*parts, ", ".join(parts)}
    assert not any(word in " ".join(captions) for word in ("moving", "growing", "shrinking", "turning"))
