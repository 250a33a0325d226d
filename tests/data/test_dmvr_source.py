"""DMVR factories, where dmvr is installed (it is not on the package index)."""

import json

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import CLASSES, example, jpeg, picture, write_shards

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

    class UsersFactory(video_dataset.BaseVideoDatasetFactory):
        """As DMVR's own example of HMDB51 does it, with the middle clip of consecutive frames and no resizing."""

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
                return tf.map_fn(lambda x: tf.io.decode_jpeg(x, channels=3), encoded, fn_output_signature=tf.uint8)

            self.sampler_builder.add_fn(middle, builders.IMAGE_FEATURE_NAME)
            self.decoder_builder.add_fn(decode, builders.IMAGE_FEATURE_NAME)
            self.decoder_builder.add_fn(tf.sparse.to_dense, "label")
            if not keep_all:
                self.filter_builder.add_filter_fn(lambda _: tf.constant(True), builders.Phase.PARSE)


@pytest.fixture
def pattern(tmp_path):
    return write_shards(tmp_path, [example(record, FRAMES) for record in range(RECORDS)], shards=2)


def make_config(tmp_path, **options):
    config = settings.defaults()
    config.data.source = "dmvr"
    config.data.class_names_file = str(tmp_path / "labels.txt")
    config.data.dmvr_factory = f"{__name__}:UsersFactory"
    config.data.dmvr_options = json.dumps({"pattern": str(tmp_path / "SUBSET@2")} | options)
    config.data.train = config.data.val = '{"subset": "train"}'
    config.data.sampling, config.data.stride = "dense", 1
    config.model.num_frames, config.model.alpha = 4, 2
    config.eval.num_views, config.eval.batch_size = 1, RECORDS
    return config


@needs_dmvr
def test_dmvrs_own_reader_and_ours_give_the_same_pixels_and_labels(pattern, tmp_path):
    config = make_config(tmp_path)
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 24))
    dataset = UsersFactory(pattern).configure().make_dataset(shuffle=False, num_epochs=1, batch_size=None)
    theirs = {bytes(item["image"].numpy().tobytes()): int(item["label"][0]) for item in dataset}
    assert len(theirs) == RECORDS
    left = (32 - 24) // 2
    for item in dataset:
        shown = item["image"].numpy()[:, :, left : left + 24]
        same = [np.array_equal(shown, video[0]) for video in batch["video"]]
        assert sum(same) == 1
        assert batch["label"][same.index(True)] == int(item["label"][0])


@needs_dmvr
def test_our_factory_gives_what_our_pipeline_gives(pattern, tmp_path):
    config = make_config(tmp_path)
    config.data.source, config.data.val, config.data.sampling = "records", pattern, "segments"
    config.eval.num_views, config.eval.num_crops = 2, 3
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 24))
    factory = dmvr_source.ClipFactory(pattern).configure(is_training=False, frames=4, resolution=24, views=2, crops=3)
    clips = list(factory.make_dataset(shuffle=False, num_epochs=1, batch_size=None))
    assert len(clips) == RECORDS
    for clip in clips:
        same = [np.array_equal(clip["image"], video) for video in batch["video"]]
        assert sum(same) == 1
        assert batch["label"][same.index(True)] == int(clip["label"])


@needs_dmvr
def test_our_factory_takes_dense_clips_too(pattern, tmp_path):
    config = make_config(tmp_path)
    config.data.source, config.data.val, config.data.stride = "records", pattern, 2
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 24))
    options = dict(is_training=False, frames=4, resolution=24, sampling="dense", stride=2, views=1)
    factory = dmvr_source.ClipFactory(pattern).configure(**options)
    for clip in factory.make_dataset(shuffle=False, num_epochs=1, batch_size=None):
        assert sum(np.array_equal(clip["image"], video) for video in batch["video"]) == 1
    with pytest.raises(UserError, match="sampling='segment'"):
        dmvr_source.ClipFactory(pattern).configure(sampling="segment")


@needs_dmvr
def test_our_factory_names_the_label_that_a_record_lacks(tmp_path):
    bare = records.make_example([jpeg(picture(0, 0))], None, None, "v.mp4", 0, 1, verb=1)
    factory = dmvr_source.ClipFactory(write_shards(tmp_path, [bare], shards=1)).configure(frames=4, resolution=16)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the record has no label clip/label/index"):
        next(iter(factory.make_dataset(batch_size=1)))


@needs_dmvr
def test_a_factory_that_takes_a_part_of_the_shards_is_a_source(pattern, tmp_path):
    paths = records.find_shards(pattern)
    config = make_config(tmp_path)
    config.data.dmvr_factory, config.data.dmvr_options = "dist_jax.data.dmvr_factory:ClipFactory", ""
    for part, size in ((paths, 6), (paths[:1], 3), (paths[1:], 3)):
        config.data.train = json.dumps({"shards": part})
        assert sources.open_source(config.data, "train").size == size


@needs_dmvr
def test_our_factory_trains_on_batches(pattern):
    factory = dmvr_source.ClipFactory(pattern).configure(frames=4, resolution=16)
    batch = next(iter(factory.make_dataset(batch_size=3)))
    assert batch["image"].shape == (3, 4, 16, 16, 3)
    assert batch["image"].dtype == tf.uint8
    assert np.all((batch["label"] >= 0) & (batch["label"] < CLASSES))


@needs_dmvr
def test_our_factory_is_a_source_too(pattern, tmp_path):
    config = make_config(tmp_path)
    config.data.dmvr_factory = "dist_jax.data.dmvr_factory:ClipFactory"
    config.data.dmvr_options = ""
    config.data.train = json.dumps({"shards": pattern})
    source = sources.open_source(config.data, "train")
    features = source.read(tf.constant(0, tf.int64))
    assert features["encoded"][0].numpy() == jpeg(picture(0, 0))


@needs_dmvr
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.dmvr_factory": "no_such_module:Factory"}, "wanted module:ClassName"),
        ({"data.dmvr_factory": ""}, "wanted module:ClassName"),
        ({"data.dmvr_options": "{"}, r"data\.dmvr_options='{' is not JSON"),
        ({"data.dmvr_options": "3"}, "wanted a JSON object"),
        ({"data.train": '{"shade": 1}'}, r"does not take \['shade'\]; it takes .*pattern.*num_frames"),
        ({"data.label_key": "verb"}, r"\['verb'\] is missing"),
        ({"data.dmvr_options": ""}, r"cannot be made with \{'subset': 'train'\}.*missing .*'pattern'"),
    ],
)
def test_a_factory_that_cannot_be_used_is_an_error(pattern, tmp_path, changes, message):
    config = make_config(tmp_path)
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        sources.open_source(config.data, "train")


@needs_dmvr
def test_a_factory_that_filters_is_refused(pattern, tmp_path):
    config = make_config(tmp_path, keep_all=False)
    with pytest.raises(UserError, match="filters its records"):
        sources.open_source(config.data, "train")


@pytest.mark.skipif(builders is not None, reason="dmvr is installed")
def test_without_dmvr_one_line_says_how_to_install_it(tmp_path):
    with pytest.raises(UserError, match=r"pip install git\+https://github\.com/google-deepmind/dmvr"):
        _ = dmvr_source.ClipFactory
    (tmp_path / "labels.txt").write_text("a\n")
    with pytest.raises(UserError, match="pip install"):
        sources.open_source(make_config(tmp_path).data, "train")


def test_the_module_has_nothing_else_to_make():
    with pytest.raises(AttributeError, match="Factory2"):
        _ = dmvr_source.Factory2
