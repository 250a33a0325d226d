"""Text features in a workdir: used for the same CLIP, class names and templates only."""

import dataclasses

import numpy as np
import pytest

from dist_jax.errors import UserError
from dist_jax.workdir import text_feature_cache
from dist_jax.workdir.run_metadata import RunMetadata

RUN = RunMetadata(
    config={},
    class_names={"verb": ["push", "pull"], "noun": ["cup"]},
    backbone={"name": "small CLIP", "fingerprint": "0123456789abcdef"},
    model={},
    num_records=20,
    prompt_templates=["a {}"],
)
FEATURES = {"verb": np.eye(2, 3, dtype=np.float32), "noun": np.ones((1, 3), np.float32)}


@pytest.fixture
def workdir(tmp_path):
    text_feature_cache.write(tmp_path, RUN, FEATURES)
    return tmp_path


def test_the_features_of_each_label_are_read_as_they_were_written(workdir):
    for label, features in FEATURES.items():
        found = text_feature_cache.read(workdir, RUN, label)
        np.testing.assert_array_equal(found, features)
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": {"verb": ["pull", "push"], "noun": ["cup"]}},
        {"backbone": {"name": "small CLIP", "fingerprint": "fedcba9876543210"}},
        {"prompt_templates": []},
    ],
)
def test_features_of_other_texts_or_of_another_clip_are_not_used(workdir, change):
    assert text_feature_cache.read(workdir, dataclasses.replace(RUN, **change), "verb") is None


def test_without_the_file_there_are_no_features(tmp_path):
    assert text_feature_cache.read(tmp_path, RUN, "verb") is None


@pytest.mark.parametrize("content", [b"", b"not a zip file"])
def test_a_damaged_file_is_named(workdir, content):
    (workdir / text_feature_cache.FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"text_features\.npz is damaged \(.*\); delete it$"):
        text_feature_cache.read(workdir, RUN, "verb")
