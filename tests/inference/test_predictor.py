"""Tests of dist_jax.load and Predictor: shapes, dtypes, values, meshes, errors, imports."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import GOLDEN, TOKENS_SEED, inputs, state_dict
from helpers import small_models
from helpers.small_models import CLASSES, DIST, TEXT, VISION
from safetensors.numpy import save_file

import dist_jax
from dist_jax import convert
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.weights import dist_official, model_directory

TOKENS = np.array([[52, 3, 4, 53, 0], [52, 7, 53, 0, 0]])
VIDEO = small_models.video(2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model directory with three classes and a tokenizer."""
    folder = tmp_path_factory.mktemp("predictor")
    tokenizer = small_models.write_tokenizer(folder / "tokenizer")
    model = convert.with_classes(small_models.model(tokenizer=tokenizer), CLASSES)
    model_directory.write(folder / "model", model)
    return folder / "model"


@pytest.fixture(scope="module")
def model(directory):
    return dist_jax.load(directory)


def assert_unit_length(x):
    np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1, rtol=1e-5)


def test_video_embeddings_are_float32_of_unit_length(model):
    embedding = model.encode_video(VIDEO)
    assert (embedding.shape, embedding.dtype) == ((2, 32), jnp.float32)
    assert_unit_length(embedding)


def test_clips_of_a_batch_are_independent(model):
    np.testing.assert_allclose(model.encode_video(VIDEO[1:]), model.encode_video(VIDEO)[1:], atol=1e-6)


def test_strings_and_their_token_ids_give_equal_embeddings(model):
    # start, a</w>, d, o, g</w>, end. Letters are tokens 0..25; at the end of a word 26..51.
    tokens = np.array([[52, 26, 3, 14, 32, 53]])
    embedding = model.encode_text(["a dog"])
    assert (embedding.shape, embedding.dtype) == ((1, 32), jnp.float32)
    assert_unit_length(embedding)
    np.testing.assert_allclose(embedding, model.encode_text(tokens), atol=1e-6)


def test_more_texts_than_one_encoder_batch(model, monkeypatch):
    monkeypatch.setattr("dist_jax.text.text_features._BATCH_SIZE", 2)
    five = np.concatenate([TOKENS, TOKENS, TOKENS[:1]])
    np.testing.assert_allclose(model.encode_text(five)[4], model.encode_text(TOKENS)[0], atol=1e-6)


def test_a_truncated_text_keeps_its_end_token(model):
    long = np.array([[52, *range(20), 53]])  # 22 tokens; the context length is 8
    cut = np.array([[52, 0, 1, 2, 3, 4, 5, 53]])
    np.testing.assert_array_equal(model.encode_text(long), model.encode_text(cut))
    letters = "abcdefghijkl"
    np.testing.assert_array_equal(
        model.encode_text([letters]), model.encode_text(np.array([[52, 0, 1, 2, 3, 4, 5, 53]]))
    )


def test_logits_are_scaled_cosine_similarities(model):
    text = model.encode_text(TOKENS)
    logits = model.logits(VIDEO, text)
    assert (logits.shape, logits.dtype) == ((2, 2), jnp.float32)
    cosine = np.asarray(model.encode_video(VIDEO)) @ np.asarray(text).T
    np.testing.assert_allclose(logits, 10 * cosine, rtol=1e-4, atol=1e-5)


def test_zero_shot_weight_interpolates_between_dist_and_clip_logits(model):
    text = model.encode_text(TOKENS)
    own, half, plain = (np.asarray(model.logits(VIDEO, text, zero_shot_weight=weight)) for weight in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(half, (own + plain) / 2, atol=1e-5)
    assert np.abs(own - plain).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("zero_shot_weight", [0.0, 0.5])
def test_logits_of_any_texts_are_products_with_the_logit_vectors(model, zero_shot_weight):
    vectors = model.logit_vectors(VIDEO, zero_shot_weight)
    assert (vectors.shape, vectors.dtype) == ((2, 32), jnp.float32)
    for text in (model.class_text_features, model.encode_text(["one", "two", "three", "four"])):
        expected = model.logits(VIDEO, text, zero_shot_weight)
        np.testing.assert_allclose(np.asarray(vectors) @ np.asarray(text).T, expected, rtol=1e-4, atol=1e-4)


def test_classify_accepts_own_classes_strings_token_ids_and_features(model):
    assert model.class_names == CLASSES
    own = model.classify(VIDEO)
    assert (own.shape, own.dtype) == ((2, 3), jnp.float32)
    np.testing.assert_allclose(own.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.classify(VIDEO, list(CLASSES)), own, rtol=1e-4)
    np.testing.assert_allclose(model.classify(VIDEO, model.encode_text(CLASSES)), own, rtol=1e-4)
    assert model.classify(VIDEO, TOKENS, zero_shot_weight=0.5).shape == (2, 2)


def test_features_use_every_alpha_th_frame(model):
    features = model.features(VIDEO)
    assert (features.shape, features.dtype) == ((3, 2, 2, 1 + 4, 128), jnp.float32)  # [L, B, S, 1+N, D]
    changed = VIDEO.copy()
    changed[:, 1::2] = 0
    np.testing.assert_array_equal(model.features(changed), features)


def test_jax_and_numpy_arrays_give_equal_results(model):
    np.testing.assert_array_equal(model.encode_video(jnp.asarray(VIDEO)), model.encode_video(VIDEO))


def test_a_model_directory_keeps_sizes_parameters_and_fingerprint(directory):
    expected = small_models.model()
    model = model_directory.read(directory)
    assert (model.dist, model.clip_model.vision, model.clip_model.text) == (expected.dist, VISION, TEXT)
    assert model.clip_model.fingerprint == expected.clip_model.fingerprint
    jax.tree.map(np.testing.assert_array_equal, model.dist_params, expected.dist_params)
    jax.tree.map(np.testing.assert_array_equal, model.clip_model.params, expected.clip_model.params)


def test_bfloat16_is_close_to_float32(directory, model):
    half = dist_jax.load(directory, dtype=jnp.bfloat16)
    embedding = half.encode_video(VIDEO)
    assert embedding.dtype == jnp.float32
    np.testing.assert_allclose((embedding * model.encode_video(VIDEO)).sum(axis=1), 1, atol=2e-2)
    assert half.features(VIDEO).dtype == jnp.bfloat16


@pytest.mark.slow
def test_a_mesh_accepts_any_number_of_clips(directory, model):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    sharded = dist_jax.load(directory, mesh=mesh)
    three = small_models.video(3)
    np.testing.assert_allclose(sharded.classify(three), model.classify(three), rtol=1e-4)
    np.testing.assert_allclose(sharded.features(three), model.features(three), atol=1e-4)


def test_each_input_shape_compiles_once(model):
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    text = model.encode_text(TOKENS)
    first, second = small_models.video(7, seed=1), small_models.video(7, seed=2)  # no other test uses 7 clips
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        model.logits(first, text).block_until_ready()
        assert compiled
        compiled.clear()
        model.logits(second, text).block_until_ready()
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_for_frames_changes_the_clip_length(model):
    longer = model.for_frames(num_frames=8)
    assert longer.num_frames == 8
    assert longer.encode_video(small_models.video(1, dataclasses.replace(DIST, num_frames=8))).shape == (1, 32)
    with pytest.raises(UserError, match=r"num_frames=5: must be a positive multiple of alpha=2"):
        model.for_frames(5)


def test_a_published_file_reproduces_the_golden_values(tmp_path):
    state = {f"{dist_official.PREFIX}{name}": np.asarray(tensor) for name, tensor in state_dict().items()}
    save_file(state, tmp_path / "golden.safetensors")  # not .pyth, which needs PyTorch to write
    model = dist_jax.load(tmp_path / "golden.safetensors")
    pixels, tokens, _ = inputs(TOKENS_SEED)
    text = model.encode_text(tokens)
    golden = GOLDEN["text_features"]
    np.testing.assert_allclose(text, golden / np.linalg.norm(golden, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(model.encode_video(pixels), GOLDEN["video_embedding"], atol=1e-6)
    np.testing.assert_allclose(model.logits(pixels, text), GOLDEN["logits"], atol=1e-5)


INVALID_VIDEOS = {
    "float pixels": (VIDEO.astype(np.float32), r"video is float32\[2, 4, 8, 8, 3\]; expected pixels 0\.\.255, uint8"),
    "no batch axis": (VIDEO[0], r"shape \[4, 8, 8, 3\]; expected .* \[B, 4, 8, 8, 3\]"),
    "wrong number of frames": (VIDEO[:, :2], r"model\.for_frames\(2\)"),
    "wrong resolution": (VIDEO[:, :, :4], r"shape \[2, 4, 4, 8, 3\]"),
    "channels first": (VIDEO.transpose(0, 1, 4, 2, 3), r"shape \[2, 4, 3, 8, 8\]"),
    "empty batch": (VIDEO[:0], r"shape \[0, 4, 8, 8, 3\]"),
    "a list": (VIDEO.tolist(), r"video is a list"),
}


@pytest.mark.parametrize(("video", "message"), INVALID_VIDEOS.values(), ids=INVALID_VIDEOS)
def test_invalid_videos_raise_an_error(model, video, message):
    with pytest.raises(UserError, match=message):
        model.encode_video(video)


INVALID_TEXTS = {
    "one string": ("a dog", r"texts must be a list of strings, not 'a dog'"),
    "empty list": ([], r"no texts are given"),
    "not strings": ([3], r"must be a list of strings"),
    "token id outside the vocabulary": (np.array([[52, 99, 53]]), r"52 to 99.* 0 to 53"),
    "one axis": (np.array([52, 3, 53]), r"int64\[3\].* int \[K, 8\]"),
    "not integers": (np.zeros((1, 8), bool), r"bool\[1, 8\].* int"),
}


@pytest.mark.parametrize(("texts", "message"), INVALID_TEXTS.values(), ids=INVALID_TEXTS)
def test_invalid_texts_raise_an_error(model, texts, message):
    with pytest.raises(UserError, match=message):
        model.encode_text(texts)


def test_invalid_text_features_and_weights_raise_an_error(model):
    with pytest.raises(UserError, match=r"float32\[2, 31\]; expected float \[K, 32\]"):
        model.logits(VIDEO, np.zeros((2, 31), np.float32))
    with pytest.raises(UserError, match=r"zero_shot_weight=1\.5: must be between 0 and 1"):
        model.classify(VIDEO, zero_shot_weight=1.5)


def test_a_text_without_end_token_raises_an_error():
    text = dataclasses.replace(TEXT, end_token=53)
    model = small_models.predictor(small_models.model(text=text))
    assert_unit_length(model.encode_text(TOKENS))
    with pytest.raises(UserError, match=r"text 1 has no end token \(53\)"):
        model.encode_text(np.array([[52, 53], [52, 3]]))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(vocab_size=53), r".* to 53.* 0 to 52"),  # the embeddings would be NaN
        (dict(end_token=20), r".* token 53.* token 20"),  # no text contains token 20
    ],
)
def test_a_tokenizer_of_another_text_tower_raises_an_error(tmp_path, sizes, message):
    tokenizer = small_models.write_tokenizer(tmp_path / "tokenizer")
    text = dataclasses.replace(TEXT, **sizes)
    model_directory.write(tmp_path / "model", small_models.model(text=text, tokenizer=tokenizer))
    model = dist_jax.load(tmp_path / "model")
    with pytest.raises(UserError, match=f"does not belong to the text tower of small CLIP: {message}"):
        model.encode_text(["a dog", "a cat"])


def test_texts_are_encoded_in_float32_with_bfloat16_videos(directory, model):
    half = dist_jax.load(directory, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(half.encode_text(CLASSES), model.encode_text(CLASSES))
    assert half.features(VIDEO).dtype == jnp.bfloat16


def test_a_model_without_tokenizer_accepts_token_ids_only():
    model = small_models.predictor(small_models.model())
    assert model.encode_text(TOKENS).shape == (2, 32)
    with pytest.raises(UserError, match=r"no tokenizer files.* --tokenizer DIR"):
        model.encode_text(["a dog"])
    with pytest.raises(UserError, match="the model has no class names; pass texts"):
        model.classify(VIDEO)


def test_a_model_without_text_tower_accepts_videos_only():
    model = small_models.predictor(small_models.model(text=None))
    assert_unit_length(model.encode_video(VIDEO))
    with pytest.raises(UserError, match="has no text tower"):
        model.encode_text(TOKENS)


def test_a_path_without_model_raises_an_error(tmp_path):
    with pytest.raises(UserError, match=r"does not exist.* a model directory, a training workdir or"):
        dist_jax.load(tmp_path / "none")
    with pytest.raises(UserError, match="is not a model directory"):
        dist_jax.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match=r"this directory has none of model\.safetensors"):  # a CLIP without weights
        dist_jax.load(tmp_path)


def test_an_unsupported_dtype_or_mesh_raises_an_error(directory):
    with pytest.raises(UserError, match="dtype=float16: must be float32 or bfloat16"):
        dist_jax.load(directory, dtype=jnp.float16)
    with pytest.raises(UserError, match=r"mesh has the axes \('x',\)"):
        dist_jax.load(directory, mesh=jax.make_mesh((8,), ("x",)))


def test_inference_does_not_import_tensorflow_torch_or_orbax(directory):
    program = """
import sys
import dist_jax
assert not {"jax", "numpy"} & set(sys.modules), "import dist_jax is not lazy"
import numpy as np
model = dist_jax.load(sys.argv[1])
model.classify(np.zeros((1, 4, 8, 8, 3), np.uint8), ["a dog", "a cat"], zero_shot_weight=0.5)
forbidden = {"tensorflow", "torch", "orbax"} & set(sys.modules)
assert not forbidden, forbidden
"""
    process = subprocess.run(
        [sys.executable, "-c", program, str(directory)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
