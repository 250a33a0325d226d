"""Tests of SigLIP's files and texts, without PyTorch: names, sizes, tokenizer, and input that is refused."""

import json

import numpy as np
import pytest
from helpers import siglip_files
from helpers.clip_files import OPEN_CLIP, OPENAI, change_config, change_tensors, write
from helpers.siglip_files import END, LETTERS, PAD, TEXT, VISION

from dist_jax.errors import UserError
from dist_jax.models.backbones.siglip import SiglipBackbone
from dist_jax.text.siglip_tokenizer import SiglipTokenizer
from dist_jax.weights import backbones, table
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.published_sizes import PUBLISHED
from dist_jax.weights.siglip import HUGGINGFACE, sizes

SUPPORTED = "; supported: SigLIP and SigLIP 2 with fixed resolution .*; CLIP with a ViT image tower"


def ids(text: str) -> list[int]:
    """Token ids of letters, spaces and hyphens, with end token and padding."""
    row = [5 + f"{LETTERS} -".index(letter) for letter in text]
    return [*row, END, *[PAD] * (TEXT.context_length - 1 - len(row))]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> str:
    return siglip_files.write_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture
def directory(siglip, tmp_path):
    """A copy of the files."""
    from shutil import copytree

    return copytree(siglip, tmp_path / "siglip")


def test_every_parameter_has_one_row_and_every_row_one_parameter():
    paths = [path for entry in HUGGINGFACE for path in entry.paths]
    assert sorted(paths) == sorted(table.flatten(SiglipBackbone(VISION, TEXT).param_shapes()))


def test_a_directory_has_the_sizes_and_parameters_of_its_files(siglip):
    loaded = backbones.load(siglip)
    assert (loaded.kind, loaded.vision, loaded.text) == ("siglip", VISION, TEXT)
    expected = table.flatten(siglip_files.siglip_model().params)
    assert table.flatten(loaded.params).keys() == expected.keys()
    for path, leaf in table.flatten(loaded.params).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    assert backbones.image_tower(siglip) == SiglipBackbone(VISION)


def test_one_error_lists_all_mismatches(directory):
    def change(tensors):
        del tensors["vision_model.head.probe"]
        tensors["extra"] = np.zeros(3, np.float32)
        tensors["logit_bias"] = np.zeros(2, np.float32)

    change_tensors(directory, change)
    with pytest.raises(UserError, match="3 tensors do not match") as error:
        backbones.load(str(directory))
    for problem in (
        "vision_model.head.probe is missing",
        "extra is unknown",
        r"logit_bias has shape [2], expected [1]",
    ):
        assert problem in str(error.value)


def test_the_published_sizes_are_those_of_their_configs():
    # From config.json of google/siglip2-so400m-patch14-384.
    tower = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16)
    config = {
        "text_config": {**tower, "vocab_size": 256000},
        "vision_config": {**tower, "image_size": 384, "patch_size": 14},
    }
    vision, text = sizes(config, "config.json")
    assert PUBLISHED["google/siglip2-so400m-patch14-384"] == SiglipBackbone(vision)
    assert (vision.resolution, vision.num_patches) == (378, 27**2)
    assert (text.context_length, text.vocab_size) == (64, 256000)
    base = table.flatten(PUBLISHED["google/siglip2-base-patch16-224"].param_shapes())
    assert sum(np.prod(leaf.shape) for leaf in base.values()) / 1e6 == pytest.approx(92.9, abs=0.05)  # timm
    for name in ("base-patch16-512", "large-patch16-384", "so400m-patch14-384"):  # the same towers in both
        assert PUBLISHED[f"google/siglip-{name}"] == PUBLISHED[f"google/siglip2-{name}"]


def test_texts_are_lower_case_with_end_token_and_padding(siglip):
    tokenizer = SiglipTokenizer(siglip)
    rows = tokenizer.encode(["A Dog", "x-ray"], TEXT.context_length)
    assert rows.dtype == np.int32
    assert rows.tolist() == [ids("a dog"), ids("x-ray")]


def test_a_long_text_is_truncated_and_keeps_its_end_token(siglip, capsys):
    (row,) = SiglipTokenizer(siglip).encode([LETTERS], TEXT.context_length)
    assert row.tolist() == [*range(5, 4 + TEXT.context_length), END]
    assert "1 of 1 texts are longer than 12 tokens and are truncated" in capsys.readouterr().err


def test_the_first_siglip_reads_texts_without_punctuation(directory):
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    (row,) = SiglipTokenizer(str(directory)).encode([" A  big, X-ray!"], TEXT.context_length)
    assert row.tolist() == ids("a big xray")


def test_text_features_are_those_of_the_token_ids(siglip):
    loaded = backbones.load(siglip)
    features = loaded.encode_texts(["a dog", "x-ray"])
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(loaded.encode_texts(np.array([ids("a dog"), ids("x-ray")])), features, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((2, 11), int), "token ids have 11 columns, must be 12 with the padding"),
        (np.full((2, 12), 33), "must be 0 to 32"),
    ],
)
def test_invalid_token_ids_are_an_error(siglip, tokens, message):
    with pytest.raises(UserError, match=message):
        backbones.load(siglip).encode_texts(tokens)


def test_the_tokenizer_of_another_model_is_an_error(directory):
    siglip_files.write_tokenizer(directory, add_bos_token=True)
    loaded = backbones.load(str(directory))
    with pytest.raises(UserError, match=r"does not belong to the text tower .* its texts start with <bos>"):
        loaded.encode_texts(["a"])
    content = json.loads((directory / "tokenizer.json").read_text())
    content["model"]["vocab"]["more"] = 33
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"does not belong to the text tower .*: it has 34 tokens, the text tower has 33"
    ):
        backbones.load(str(directory)).encode_texts(["a"])


def test_a_model_without_tokenizer_json_is_an_error(directory):
    (directory / "tokenizer.json").rename(directory / "spiece.model")
    with pytest.raises(UserError, match="no tokenizer files"):
        backbones.load(str(directory)).encode_texts(["a"])


@pytest.mark.parametrize(
    ("tower", "fields", "message"),
    [
        ("", {"model_type": "siglip2"}, f"model_type siglip2. is not supported.*{SUPPORTED}"),
        ("", {"model_type": "blip"}, f"model_type is 'blip', must be clip or clip_vision_model{SUPPORTED}"),
        ("vision_config", {"hidden_act": "gelu"}, "vision_config.hidden_act is 'gelu', must be 'gelu_pytorch_tanh'"),
        ("vision_config", {"vision_use_head": False}, "vision_config.vision_use_head is False, must be True"),
        ("vision_config", {"num_attention_heads": 5}, "width 64 cannot be split into 5"),
        ("text_config", {"layer_norm_eps": 1e-5}, "text_config.layer_norm_eps is 1e-05, must be 1e-06"),
        ("text_config", {"projection_size": 32}, "text_config.projection_size is 32, must be 64"),
    ],
)  # fmt: skip
def test_an_unsupported_hugging_face_config_is_an_error(directory, tower, fields, message):
    change_config(directory, tower, **fields)
    with pytest.raises(UserError, match=message):
        backbones.load(str(directory))


def test_another_normalisation_and_another_activation_are_errors(directory):
    with pytest.raises(UserError, match="activation gelu is set, but the model has gelu_pytorch_tanh"):
        backbones.load(str(directory), settings=ClipSettings("gelu"))
    (directory / "preprocessor_config.json").write_text('{"image_mean": [0.48, 0.46, 0.41]}')
    with pytest.raises(UserError, match=r"image_mean is \[0.48, 0.46, 0.41\], must be \[0.5, 0.5, 0.5\]"):
        backbones.load(str(directory))


def test_a_directory_without_weights_is_an_error(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"this directory has none of model\.safetensors"):
        backbones.load(str(directory))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("visual.layer1.0.conv1.weight", "a CLIP with a ResNet image tower"),
        ("visual.trunk.stem.0.weight", "an image tower of timm"),  # ConvNeXt, EVA
        ("text_decoder.resblocks.0.ln_1.weight", "CoCa"),
        ("text.transformer.embeddings.word_embeddings.weight", "a text tower of another architecture"),
    ],
)
def test_other_towers_of_open_clip_are_refused_with_what_is_supported(tmp_path, name, model):
    tensors = {**OPENAI, name: np.zeros(2, np.float32)}
    write(tmp_path / "open_clip_model.safetensors", tensors, open_clip_config=OPEN_CLIP)
    with pytest.raises(UserError, match=f"{model}.* is not supported.*{SUPPORTED}"):
        backbones.load(str(tmp_path))


def test_an_unsupported_open_clip_config_is_refused_with_what_is_supported(tmp_path):
    config = {"model_cfg": {**OPEN_CLIP["model_cfg"], "multimodal_cfg": {}}}
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=config)
    with pytest.raises(UserError, match=f"unsupported settings model_cfg.multimodal_cfg.*{SUPPORTED}"):
        backbones.load(str(tmp_path))


def test_a_clip_directory_is_a_clip(clip_directory):
    assert backbones.load(clip_directory).kind == "clip"
