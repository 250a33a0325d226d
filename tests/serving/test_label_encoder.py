"""Tests of dist_jax.serving.label_encoder: one call per new name, fixed batches, bounded cache."""

import numpy as np

from dist_jax.serving.label_encoder import TEXT_BATCH, LabelEncoder


class Encode:
    """The length of each name as its feature. Records the calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, names):
        self.calls.append(names)
        return np.array([[len(name)] for name in names], np.float32)


def test_features_are_in_the_order_of_the_names_and_each_name_is_encoded_once():
    encode = Encode()
    encoder = LabelEncoder(encode)
    assert encoder(["aaa", "b"]).tolist() == [[3], [1]]
    assert encoder(["cc", "b", "aaa"]).tolist() == [[2], [1], [3]]
    assert [sorted(set(names)) for names in encode.calls] == [["aaa", "b"], ["cc"]]


def test_all_batches_have_the_same_size():
    encode = Encode()
    names = ["x" * length for length in range(1, TEXT_BATCH + 4)]
    assert LabelEncoder(encode)(names).tolist() == [[length] for length in range(1, TEXT_BATCH + 4)]
    assert [len(call) for call in encode.calls] == [TEXT_BATCH, TEXT_BATCH]


def test_the_cache_keeps_the_latest_names():
    encode = Encode()
    encoder = LabelEncoder(encode, capacity=2)
    assert encoder(["a", "bb", "ccc"]).tolist() == [[1], [2], [3]]  # more names than the cache holds
    encoder(["bb"])
    encoder(["dddd"])
    encode.calls.clear()
    encoder(["bb", "dddd"])
    assert encode.calls == []
    encoder(["ccc"])
    assert len(encode.calls) == 1
