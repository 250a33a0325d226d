"""Tests of the files and texts of Perception Encoder Core, without PyTorch: names, sizes, input that is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import hub_stub, pe_files
from helpers.clip_files import OPEN_CLIP, OPENAI, write
from helpers.pe_files import TEXT, VISION, WITHOUT_CLASS_TOKEN
from safetensors.numpy import load_file, save_file

from dist_jax.errors import UserError
from dist_jax.models.backbones.pe import PeBackbone
from dist_jax.weights import backbone_files, backbones, pe_formats, table
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.published_sizes import PUBLISHED

SUPPORTED = "; supported: SigLIP .*; Perception Encoder Core .*; CLIP with a ViT"
BOTH = pytest.mark.parametrize("vision", [VISION, WITHOUT_CLASS_TOKEN], ids=["class token", "none"])


@pytest.fixture(scope="module")
def pe(tmp_path_factory) -> str:
    return pe_files.write_pe(tmp_path_factory.mktemp("pe"))


@pytest.fixture
def directory(pe, tmp_path) -> Path:
    """A copy of the files."""
    return shutil.copytree(pe, tmp_path / "pe")


def change_tensors(directory: Path, change) -> None:
    file = directory / "open_clip_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def write_config(directory: Path, timm_name: str) -> None:
    (directory / "open_clip_config.json").write_text(json.dumps(pe_files.open_clip_config(timm_name)))


@pytest.mark.parametrize("rows", [pe_formats.OPEN_CLIP, pe_formats.META], ids=["open_clip", "facebook"])
def test_every_parameter_has_one_row_and_every_row_one_parameter(rows):
    paths = [path for entry in rows for path in entry.paths]
    assert sorted(paths) == sorted(table.flatten(PeBackbone(VISION, TEXT).param_shapes()))
    without = table.flatten(PeBackbone(WITHOUT_CLASS_TOKEN, TEXT).param_shapes())
    assert set(paths) - set(without) == {pe_formats.CLASS_TOKEN}


@BOTH
def test_both_formats_have_the_same_sizes_and_parameters(vision, tmp_path):
    open_clip = backbones.load(pe_files.write_pe(tmp_path / "pe", vision))
    save_file(pe_files.meta_tensors(vision), tmp_path / "PE-Core-X.safetensors")
    facebook = backbones.load(str(tmp_path / "PE-Core-X.safetensors"))
    expected = table.flatten(pe_files.pe_model(vision).params)
    for loaded in (open_clip, facebook):
        assert (loaded.kind, loaded.vision, loaded.text) == ("pe", vision, TEXT)
        assert table.flatten(loaded.params).keys() == expected.keys()
        for path, leaf in table.flatten(loaded.params).items():
            np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    assert open_clip.fingerprint == facebook.fingerprint
    assert backbones.image_tower(str(tmp_path / "pe")) == PeBackbone(vision)


def test_a_training_checkpoint_of_open_clip_loads(pe, directory):
    def add_prefix(tensors):
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)

    change_tensors(directory, add_prefix)
    assert backbones.load(str(directory)).fingerprint == backbones.load(pe).fingerprint


def test_an_image_tower_without_text_tower_loads(directory, capsys):
    change_tensors(directory, lambda tensors: [tensors.pop(name) for name in list(tensors) if "visual" not in name])
    loaded = backbones.load(str(directory))
    assert (loaded.vision, loaded.text) == (VISION, None)
    assert "using a logit scale of 100" in capsys.readouterr().err


def test_a_file_of_facebook_is_found_on_the_hub(tmp_path):
    (tmp_path / "files").mkdir()
    save_file(pe_files.meta_tensors(), tmp_path / "files" / "PE-Core-X.pt")
    with hub_stub.serve_hub(tmp_path / "cache") as hub:
        hub.add("facebook/PE-Core-X", tmp_path / "files")
        assert backbone_files.find("facebook/PE-Core-X").name == "PE-Core-X.pt"


def test_the_published_sizes_have_the_published_number_of_parameters():
    # Millions of the image towers and the resolutions: table 1 of the paper.
    for name, millions, resolution in (("B16-224", 94, 224), ("L14-336", 317, 336), ("G14-448", 1882, 448)):
        backbone = PUBLISHED[f"facebook/PE-Core-{name}"]
        num_params = sum(np.prod(leaf.shape) for leaf in table.flatten(backbone.param_shapes()).values())
        assert (round(num_params / 1e6), backbone.resolution) == (millions, resolution)
    assert [PUBLISHED[f"timm/PE-Core-{name}"].num_prefix_tokens for name in ("B-16", "bigG-14-448")] == [1, 0]


def test_text_features_are_those_of_the_token_ids(pe):
    loaded = backbones.load(pe)
    texts = loaded.encode_texts(["a dog", "surfing"])
    ids = loaded.tokenize(["a dog", "surfing"])
    assert ids.shape == (2, TEXT.context_length)
    np.testing.assert_allclose(loaded.encode_texts(ids), texts, atol=1e-6)


def test_the_tokenizer_of_another_model_is_an_error(directory):
    vocab = json.loads((directory / "vocab.json").read_text())
    end, other = vocab["<|endoftext|>"], vocab["<|startoftext|>"]
    (directory / "vocab.json").write_text(json.dumps(vocab | {"<|endoftext|>": other, "<|startoftext|>": end}))
    with pytest.raises(UserError, match=r"does not belong to the text tower of .*: its texts end with token 52"):
        backbones.load(str(directory)).encode_texts(["a"])


def test_a_model_without_tokenizer_is_an_error(directory):
    (directory / "vocab.json").unlink()
    with pytest.raises(UserError, match="no tokenizer files"):
        backbones.load(str(directory)).encode_texts(["a"])


def test_one_error_lists_all_mismatches(directory):
    def change(tensors):
        del tensors["visual.trunk.attn_pool.latent"]
        tensors["visual.trunk.blocks.0.gamma_1"] = np.zeros(3, np.float32)
        tensors["visual.trunk.head.bias"] = np.zeros(2, np.float32)
        tensors["visual.trunk.head.weight"] = np.zeros((2, 3), np.float32)

    change_tensors(directory, change)
    with pytest.raises(UserError, match="tensors do not match") as error:
        backbones.load(str(directory))
    for problem in (
        "visual.trunk.attn_pool.latent is missing",
        "visual.trunk.blocks.0.gamma_1 is unknown",
        "visual.trunk.head.weight has shape [2, 3]",
    ):
        assert problem in str(error.value)


def test_a_missing_class_token_is_an_error(directory):
    change_tensors(directory, lambda tensors: tensors.pop("visual.trunk.cls_token"))
    with pytest.raises(UserError, match=r"visual\.trunk\.pos_embed has 5 patches, must be a square number"):
        backbones.load(str(directory))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ClipSettings("quick_gelu"), "activation quick_gelu is set, but the model has gelu and gelu"),
        (ClipSettings(num_heads=(5, 2)), "width 384 cannot be split into 5 attention heads"),
        (ClipSettings(num_heads=(128, 2)), "the width of a head must be a multiple of 4"),
        (ClipSettings(num_heads=(6,)), "num_heads 6 is set, but the file has image and text towers"),
    ],
)
def test_impossible_settings_are_an_error(pe, settings, message):
    with pytest.raises(UserError, match=message):
        backbones.load(pe, settings=settings)


def test_an_unknown_number_of_heads_has_to_be_set(directory):
    def narrow(tensors):
        for name, tensor in tensors.items():
            if name.startswith("visual.trunk.norm."):
                tensors[name] = tensor[:40]

    change_tensors(directory, narrow)
    with pytest.raises(UserError, match=r"the number of heads of its image tower \(width 40\) is unknown; set --num-h"):
        backbones.load(str(directory))


def test_another_normalisation_is_an_error(directory):
    config = pe_files.open_clip_config("vit_pe_core_base_patch16_224")
    config["preprocess_cfg"]["mean"] = [0.48, 0.46, 0.41]
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"mean is \[0.48, 0.46, 0.41\], must be \[0.5, 0.5, 0.5\]"):
        backbones.load(str(directory))


def test_another_resolution_is_a_multiple_of_the_patch_size(pe):
    assert backbones.load(pe, resolution=12).vision.trained_grid == 2
    with pytest.raises(UserError, match="resolution 10: must be a multiple of 4"):
        backbones.load(pe, resolution=10)


@pytest.mark.parametrize("timm_name", ["vit_pe_lang_large_patch14_448", "vit_pe_spatial_base_patch16_512"])
def test_pe_lang_and_pe_spatial_are_refused_with_what_is_supported(directory, timm_name):
    write_config(directory, timm_name)
    with pytest.raises(UserError, match=f"PE-Lang and PE-Spatial are not supported.*use PE-Core{SUPPORTED}"):
        backbones.load(str(directory))


def test_files_of_pe_lang_are_refused_with_what_is_supported(tmp_path):
    tensors = {f"{tower}transformer.resblocks.0.ls_1.gamma": np.zeros(2, np.float32) for tower in ("", "visual.")}
    for name, tensor in tensors.items():
        save_file({name: tensor}, tmp_path / "PE-Lang-L14-448.safetensors")
        with pytest.raises(UserError, match=f"PE-Lang and PE-Spatial are not supported.*{SUPPORTED}"):
            backbones.load(str(tmp_path / "PE-Lang-L14-448.safetensors"))


@pytest.mark.parametrize("timm_name", ["eva02_base_patch16_clip_224", "vit_base_patch16_siglip_224"])
def test_other_towers_of_timm_are_refused_with_what_is_supported(directory, timm_name):
    write_config(directory, timm_name)
    with pytest.raises(UserError, match=f"an image tower of timm .* is not supported.*{SUPPORTED}"):
        backbones.load(str(directory))


def test_a_clip_of_open_clip_is_not_a_perception_encoder(tmp_path):
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=OPEN_CLIP)
    assert backbones.load(str(tmp_path)).kind == "clip"
