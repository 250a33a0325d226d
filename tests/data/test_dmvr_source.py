"""DMVR factories. Most tests need the dmvr package, which is not on PyPI."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import NUM_CLASSES, decoded, example, jpeg, picture, stored_pixels, write_shards

from dist_jax import config as settings
from dist_jax.data import dmvr_source, pipeline, records, sources
from dist_jax.errors import UserError

try:
    from dmvr import builders, video_dataset
except ModuleNotFoundError:
    builders = video_dataset = None

needs_dmvr = pytest.mark.skipif(builders is None, reason="dmvr is not installed")
RECORDS, FRAMES = 6, 12

if builders:

    class UserFactory(video_dataset.BaseVideoDatasetFactory):
        """Like DMVR's HMDB51 example: consecutive frames from the middle of the video, without resizing."""

        def __init__(self, pattern, subset="train"):
            super().__init__(records.find_shards(pattern.replace("SUBSET", subset)))

        def _build(self, num_frames=4, keep_all=True):
            frames = tf.io.FixedLenSequenceFeature((), dtype=tf.string)
            self.parser_builder.parse_feature("image/encoded", frames, builders.IMAGE_FEATURE_NAME)
            label = tf.io.VarLenFeature(tf.int64)
            self.parser_builder.parse_feature("clip/label/index", label, "label", is_context=True)

            def middle(encoded):
                offset = (tf.shape(encoded)[0] - num_frames) // 2
                return encoded[offset : offset + num_frames]

            def decode(encoded):
                decode_one = functools.partial(tf.io.decode_jpeg, channels=3, dct_method="INTEGER_ACCURATE")
                return tf.map_fn(decode_one, encoded, fn_output_signature=tf.uint8)

            self.sampler_builder.add_fn(middle, builders.IMAGE_FEATURE_NAME)
            self.decoder_builder.add_fn(decode, builders.IMAGE_FEATURE_NAME)
            self.decoder_builder.add_fn(tf.sparse.to_dense, "label")
            if not keep_all:
                self.filter_builder.add_filter_fn(lambda _: tf.constant(True), builders.Phase.PARSE)

    class VerbNounFactory(UserFactory):
        """Parses the labels of EPIC-KITCHENS."""

        def _build(self, num_frames=4):
            super()._build(num_frames)
            for name in ("verb", "noun"):
                self.parser_builder.parse_feature(
                    f"clip/{name}/index", tf.io.FixedLenFeature((), tf.int64), name, is_context=True
                )


@pytest.fixture
def pattern(tmp_path):
    return write_shards(tmp_path, [example(record, FRAMES) for record in range(RECORDS)], shards=2)


def make_config(tmp_path, **options):
    config = settings.defaults()
    config.data.source = "dmvr"
    config.data.class_names_file = str(tmp_path / "labels.txt")
    config.data.dmvr_factory = f"{__name__}:UserFactory"
    config.data.dmvr_options = json.dumps({"pattern": str(tmp_path / "SUBSET@2")} | options)
    config.data.train = config.data.val = '{"subset": "train"}'
    config.data.sampling, config.data.stride = "dense", 1
    config.model.num_frames, config.model.alpha = 4, 2
    config.eval.num_views, config.eval.batch_size = 1, RECORDS
    return config


@needs_dmvr
def test_dmvr_and_dist_jax_read_the_same_pixels_and_labels(pattern, tmp_path):
    config = make_config(tmp_path)
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 24))
    dataset = UserFactory(pattern).configure().make_dataset(shuffle=False, num_epochs=1, batch_size=None)
    assert len({item["image"].numpy().tobytes() for item in dataset}) == RECORDS
    left = (32 - 24) // 2
    for item in dataset:
        cropped = item["image"].numpy()[:, :, left : left + 24]
        equal = [np.array_equal(cropped, video[0]) for video in batch["video"]]
        assert sum(equal) == 1
        assert batch["labels"]["label"][equal.index(True)] == int(item["label"][0])


@needs_dmvr
def test_clip_factory_gives_the_same_clips_as_the_pipeline(pattern, tmp_path):
    config = make_config(tmp_path)
    config.data.source, config.data.val, config.data.sampling = "records", pattern, "segments"
    config.eval.num_views, config.eval.num_crops = 2, 3
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 24))
    options = dict(is_training=False, num_frames=4, resolution=24, num_views=2, num_crops=3)
    factory = dmvr_source.ClipFactory(pattern).configure(**options)
    clips = list(factory.make_dataset(shuffle=False, num_epochs=1, batch_size=None))
    assert len(clips) == RECORDS
    for clip in clips:
        equal = [np.array_equal(clip["image"], video) for video in batch["video"]]
        assert sum(equal) == 1
        assert batch["labels"]["label"][equal.index(True)] == int(clip["label"])


@needs_dmvr
def test_clip_factory_supports_dense_sampling(pattern, tmp_path):
    config = make_config(tmp_path)
    config.data.source, config.data.val, config.data.stride = "records", pattern, 2
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 24))
    options = dict(is_training=False, num_frames=4, resolution=24, sampling="dense", stride=2, num_views=1)
    factory = dmvr_source.ClipFactory(pattern).configure(**options)
    for clip in factory.make_dataset(shuffle=False, num_epochs=1, batch_size=None):
        assert sum(np.array_equal(clip["image"], video) for video in batch["video"]) == 1
    with pytest.raises(UserError, match="sampling='segment'"):
        dmvr_source.ClipFactory(pattern).configure(sampling="segment")


@needs_dmvr
def test_clip_factory_names_the_missing_label_of_a_record(tmp_path):
    without_label = records.make_example([jpeg(picture(0, 0))], None, None, "v.mp4", 0, 1, verb=1)
    pattern = write_shards(tmp_path, [without_label], shards=1)
    factory = dmvr_source.ClipFactory(pattern).configure(num_frames=4, resolution=16)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the record has no label clip/label/index"):
        next(iter(factory.make_dataset(batch_size=1)))


@needs_dmvr
def test_a_factory_may_use_some_of_the_shards(pattern, tmp_path):
    paths = records.find_shards(pattern)
    config = make_config(tmp_path)
    config.data.dmvr_factory, config.data.dmvr_options = "dist_jax.data.dmvr_source:ClipFactory", ""
    for part, size in ((paths, 6), (paths[:1], 3), (paths[1:], 3)):
        config.data.train = json.dumps({"shards": part})
        assert sources.open_source(config.data, "train").size == size


@needs_dmvr
def test_clip_factory_makes_training_batches(pattern):
    factory = dmvr_source.ClipFactory(pattern).configure(num_frames=4, resolution=16)
    batch = next(iter(factory.make_dataset(batch_size=3)))
    assert batch["image"].shape == (3, 4, 16, 16, 3)
    assert batch["image"].dtype == tf.uint8
    assert np.all((batch["label"] >= 0) & (batch["label"] < NUM_CLASSES))


@needs_dmvr
def test_clip_factory_can_be_a_source(pattern, tmp_path):
    config = make_config(tmp_path)
    config.data.dmvr_factory = "dist_jax.data.dmvr_source:ClipFactory"
    config.data.dmvr_options = ""
    config.data.train = json.dumps({"shards": pattern})
    source = sources.open_source(config.data, "train")
    np.testing.assert_array_equal(decoded(source.read(0))[0], stored_pixels(0, 0))


@needs_dmvr
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.dmvr_factory": "no_such_module:Factory"}, "must be module:ClassName"),
        ({"data.dmvr_factory": ""}, "must be module:ClassName"),
        ({"data.dmvr_options": "{"}, r"data\.dmvr_options='{' is not JSON"),
        ({"data.dmvr_options": "3"}, "must be a JSON object"),
        ({"data.train": '{"shade": 1}'}, r"has no arguments \['shade'\]; use .*pattern.*num_frames"),
        ({"data.label_key": "verb"}, r"\['verb'\] is missing"),
        ({"data.dmvr_options": ""}, r"fails with \{'subset': 'train'\}.*missing .*'pattern'"),
    ],
)
def test_an_invalid_factory_or_invalid_arguments_are_an_error(pattern, tmp_path, changes, message):
    config = make_config(tmp_path)
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        sources.open_source(config.data, "train")


@needs_dmvr
def test_a_factory_that_parses_verb_and_noun_gives_both(tmp_path):
    clips = [records.make_example([jpeg(picture(0, 0))], None, None, "v", 0, 1, verb=n, noun=4 - n) for n in range(4)]
    write_shards(tmp_path, clips, shards=2)
    config = make_config(tmp_path)
    config.data.label_key = "verb,noun"
    config.data.class_names_file = f"{tmp_path / 'labels.txt'},{tmp_path / 'labels.txt'}"
    with pytest.raises(UserError, match=r"\['noun', 'verb'\] is missing"):
        sources.open_source(config.data, "val")
    config.data.dmvr_factory = f"{__name__}:VerbNounFactory"
    (batch,) = pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(0, 4), 8)
    assert batch["labels"]["verb"].tolist() == [0, 2, 1, 3]  # by shard
    assert batch["labels"]["noun"].tolist() == [4, 2, 3, 1]


@needs_dmvr
def test_a_factory_with_a_filter_is_an_error(pattern, tmp_path):
    config = make_config(tmp_path, keep_all=False)
    with pytest.raises(UserError, match="filters its records"):
        sources.open_source(config.data, "train")


@pytest.mark.skipif(builders is not None, reason="dmvr is installed")
def test_without_dmvr_the_error_says_how_to_install_it(tmp_path):
    with pytest.raises(UserError, match=r"pip install git\+https://github\.com/google-deepmind/dmvr"):
        _ = dmvr_source.ClipFactory
    (tmp_path / "labels.txt").write_text("a\n")
    with pytest.raises(UserError, match="pip install"):
        sources.open_source(make_config(tmp_path).data, "train")


def test_an_unknown_attribute_of_the_module_is_an_error():
    with pytest.raises(AttributeError, match="Factory2"):
        _ = dmvr_source.Factory2
