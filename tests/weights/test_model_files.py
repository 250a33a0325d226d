"""Tests of reading trained models and of converting them to model directories."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import small_models
from helpers.clip_files import write
from helpers.small_models import CLASSES, DIST, TEXT, VISION

import dist_jax
from dist_jax import convert
from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_directory
from dist_jax.weights.model_files import read_model
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.workdir.run_metadata import read_run_metadata, write_run_metadata


@pytest.fixture
def workdir(tmp_path, clip_directory):
    return small_models.write_workdir(tmp_path / "run", clip_directory)


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


def assert_same_params(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_workdir_becomes_a_self_contained_model_directory(tmp_path, workdir, capsys):
    run("--input", workdir, "--output", tmp_path / "model")
    assert "2+4 frames of 8 pixels, reads 3 of 3 blocks" in capsys.readouterr().out
    model = model_directory.read(tmp_path / "model")
    assert_same_params(model.dist_params, small_models.model().dist_params)
    assert_same_params(model.clip_model.params, small_models.clip_model().params)
    assert model.class_names == CLASSES
    assert (model.eval_protocol.num_views, model.eval_protocol.zero_shot_weight) == (2, 0.25)
    converted, trained = dist_jax.load(tmp_path / "model"), dist_jax.load(workdir)
    np.testing.assert_allclose(model.text_features, converted.encode_text(CLASSES), atol=1e-6)
    video = small_models.video(1)
    np.testing.assert_allclose(converted.classify(video), trained.classify(video), atol=1e-6)


def test_another_clip_than_that_of_the_training_is_an_error(tmp_path, workdir):
    clip_weights.save_huggingface(small_models.clip_model(seed=9), tmp_path / "other")
    arguments = ["--input", workdir, "--clip", tmp_path / "other", "--output", tmp_path / "model"]
    with pytest.raises(UserError, match=r"trained with the CLIP .*clip .*but .*other is a different one .*--use-clip"):
        run(*arguments)
    with pytest.raises(UserError, match="has no tokenizer files, so it accepts only token ids"):
        run(*arguments, "--use-clip", "given")


def test_the_error_for_a_moved_clip_says_how_to_set_it(tmp_path, workdir, clip_directory):
    Path(clip_directory).rename(tmp_path / "moved")
    message = (
        rf"run does not contain CLIP, and .* failed \({clip_directory}: no such .*\); .*dist_jax\.load\(path, clip="
    )
    with pytest.raises(UserError, match=message):
        dist_jax.load(workdir)
    assert dist_jax.load(workdir, clip=str(tmp_path / "moved")).class_names == CLASSES


def test_other_activations_than_in_the_training_are_an_error(tmp_path, clip_directory):
    same = small_models.write_workdir(tmp_path / "same", clip_directory, activations=["quick_gelu", "quick_gelu"])
    assert read_model(same).dist == DIST
    other = small_models.write_workdir(tmp_path / "other", clip_directory, activations=["gelu", "quick_gelu"])
    with pytest.raises(
        UserError, match=r"trained with a CLIP with the activations gelu, quick_gelu, but .*clip has quick_"
    ):
        read_model(other)


def test_the_same_clip_without_tokenizer_keeps_the_tokenizer_of_the_model(tmp_path, clip_directory):
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "bare")
    own = dataclasses.replace(clip_weights.load(clip_directory), name="own")
    model_directory.write(tmp_path / "model", dataclasses.replace(small_models.model(), clip_model=own))
    run("--input", tmp_path / "model", "--clip", tmp_path / "bare", "--output", tmp_path / "new")
    assert (tmp_path / "new" / "merges.txt").is_file()


def test_a_tokenizer_is_a_directory_or_a_hub_id(tmp_path, clip_directory, monkeypatch):
    model_directory.write(tmp_path / "model", small_models.model())
    monkeypatch.setenv("HOME", str(tmp_path))
    run("--input", tmp_path / "model", "--output", tmp_path / "new", "--tokenizer", "~/clip")
    monkeypatch.setattr("dist_jax.hub.download", lambda repository, patterns: Path(clip_directory))
    run("--input", tmp_path / "model", "--output", tmp_path / "newer", "--tokenizer", "somebody/clip")
    for name in ("new", "newer"):
        assert (tmp_path / name / "merges.txt").is_file()


def test_a_tokenizer_of_another_text_tower_is_an_error(tmp_path, labels, clip_directory):
    model_directory.write(tmp_path / "model", small_models.model(text=dataclasses.replace(TEXT, vocab_size=53)))
    with pytest.raises(UserError, match=r"tokenizer of .* does not belong to the text tower of small CLIP: .* to 53;"):
        run(
            *("--input", tmp_path / "model", "--labels", labels),
            *("--tokenizer", clip_directory, "--output", tmp_path / "new"),
        )


def test_labels_replace_the_classes_of_a_model(tmp_path, labels, clip_directory):
    model_directory.write(tmp_path / "old", small_models.model())
    run("--input", tmp_path / "old", "--output", tmp_path / "new", "--labels", labels, "--tokenizer", clip_directory)
    model = model_directory.read(tmp_path / "new")
    assert model.class_names == CLASSES
    assert model.text_features.shape == (3, 32)
    assert (tmp_path / "new" / "merges.txt").is_file()
    with pytest.raises(UserError, match=r"has no tokenizer files.*--tokenizer DIR"):
        run("--input", tmp_path / "old", "--output", tmp_path / "newer", "--labels", labels)


def test_an_existing_output_is_an_error(tmp_path):
    model_directory.write(tmp_path / "model", small_models.model())
    with pytest.raises(UserError, match=r"model exists and is not empty; use another --output"):
        run("--input", tmp_path / "model", "--output", tmp_path / "model")


def test_use_clip_chooses_between_two_different_clips(tmp_path, clip_directory):
    model_directory.write(tmp_path / "model", small_models.model(seed=9))
    arguments = ["--input", tmp_path / "model", "--clip", clip_directory, "--output"]
    with pytest.raises(UserError, match=r"differ: \d+ of \d+ parameters, by at most \d.*--use-clip inside or"):
        run(*arguments, tmp_path / "a")
    run(*arguments, tmp_path / "a", "--use-clip", "given")
    assert_same_params(model_directory.read(tmp_path / "a").clip_model.params, small_models.clip_model().params)
    run(*arguments, tmp_path / "b", "--use-clip", "inside")
    assert_same_params(model_directory.read(tmp_path / "b").clip_model.params, small_models.clip_model(seed=9).params)


def test_another_activation_is_a_different_clip(tmp_path, clip_directory):
    vision = dataclasses.replace(VISION, activation="gelu")
    same = dataclasses.replace(
        small_models.clip_model(vision=vision), fingerprint=clip_weights.load(clip_directory).fingerprint
    )
    model_directory.write(tmp_path / "model", dataclasses.replace(small_models.model(), clip_model=same))
    with pytest.raises(UserError, match="differ: vision activation gelu and quick_gelu"):
        run("--input", tmp_path / "model", "--clip", clip_directory, "--output", tmp_path / "new")


def write_open_clip(folder: Path) -> str:
    """The weights of `small_models.clip_model()` as an open_clip file without config."""
    tensors = clip_weights.to_openai(small_models.clip_model())
    small_models.write_tokenizer(folder)
    return write(folder / "epoch_3.safetensors", {name: np.asarray(x, order="C") for name, x in tensors.items()})


def test_clip_weights_without_a_config_need_an_activation(tmp_path):
    model_directory.write(tmp_path / "model", small_models.model())
    arguments = ["--input", tmp_path / "model", "--use-clip", "given", "--output"]
    with pytest.raises(UserError, match="--activation and --num-heads describe the CLIP weights --clip; set --clip"):
        run("--input", tmp_path / "model", "--output", tmp_path / "new", "--activation", "gelu")
    arguments += [tmp_path / "new", "--clip", write_open_clip(tmp_path / "clip")]
    with pytest.raises(UserError, match=r"does not contain whether it has GELU or QuickGELU, .*set --activation"):
        run(*arguments)
    run(*arguments, "--activation", "gelu", "--num-heads", "4,1")
    clip_model = model_directory.read(tmp_path / "new").clip_model
    assert (clip_model.vision.activation, clip_model.text.activation) == ("gelu", "gelu")
    assert (clip_model.vision.num_heads, clip_model.text.num_heads) == (4, 1)


def test_a_run_on_clip_weights_without_a_config_keeps_their_settings(tmp_path, clip_directory):
    workdir = Path(small_models.write_workdir(tmp_path / "run", clip_directory, activations=["gelu", "gelu"]))
    metadata = read_run_metadata(workdir)
    backbone = metadata.config["backbone"] | {
        "weights": write_open_clip(tmp_path / "clip"),
        "activation": "gelu",
        "num_heads": [2, 2],
    }
    write_run_metadata(workdir, dataclasses.replace(metadata, config=metadata.config | {"backbone": backbone}))
    assert read_model(workdir).clip_model.vision.activation == "gelu"
    moved = (tmp_path / "clip").rename(tmp_path / "moved") / "epoch_3.safetensors"
    assert read_model(workdir, clip=str(moved)).clip_model.vision.activation == "gelu"
    with pytest.raises(UserError, match="was trained with a CLIP with the activations gelu, gelu, but"):
        read_model(workdir, clip=str(moved), clip_settings=ClipSettings("quick_gelu"))


@pytest.mark.parametrize("text", ["0,1", "1,2,3", "-1"])
def test_num_heads_must_be_one_number_per_tower(text):
    with pytest.raises(UserError, match=f"num_heads {text}: must be one number above 0 per tower"):
        run("--input", "x", "--output", "y", f"--num-heads={text}")


def test_layers_are_only_for_published_files(tmp_path, workdir):
    model_directory.write(tmp_path / "model", small_models.model())
    for source in (tmp_path / "model", workdir):
        with pytest.raises(UserError, match="which contains the backbone blocks; remove --layers"):
            run("--input", source, "--output", tmp_path / "new", "--layers", "0,1,2")


def test_a_directory_without_tokenizer_files_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer files .*vocab\.json"):
        run("--input", "x", "--output", tmp_path / "new", "--tokenizer", tmp_path)


def test_a_clip_without_dist_network_is_an_error(tmp_path, clip_directory):
    with pytest.raises(UserError, match=r"contains no DiST network \(a directory with only a CLIP is for --clip\)"):
        run("--input", clip_directory, "--output", tmp_path / "new")
    with pytest.raises(UserError, match=r"contains no DiST network \(dist_net\.\*\); use --clip"):
        run("--input", f"{clip_directory}/model.safetensors", "--output", tmp_path / "new")


def test_use_clip_needs_clip():
    with pytest.raises(UserError, match="--use-clip given chooses between two CLIPs; set the second one with --clip"):
        run("--input", "x", "--output", "y", "--use-clip", "given")


def test_a_clip_of_other_sizes_is_an_error(tmp_path):
    vision = dataclasses.replace(VISION, patch_size=2, num_layers=2)
    clip_weights.save_huggingface(small_models.clip_model(vision=vision), tmp_path / "clip")
    model_directory.write(tmp_path / "model", small_models.model())
    with pytest.raises(UserError, match=r"patch size 2, expected 4; 2 blocks, but the network reads block 2"):
        run(
            *("--input", tmp_path / "model", "--clip", tmp_path / "clip"),
            *("--use-clip", "given", "--output", tmp_path / "new"),
        )


@pytest.mark.parametrize("text", ["3,1", "1,1", "-1,2", "a"])
def test_layers_must_be_increasing_block_numbers(text, capsys):
    with pytest.raises(SystemExit):
        run("--input", "x", "--output", "y", f"--layers={text}")
    assert "--layers" in capsys.readouterr().err


def test_options_without_an_effect_on_a_pytorch_file_are_an_error(tmp_path, labels):
    with pytest.raises(UserError, match="--labels and --tokenizer are for model directories"):
        run("--input", tmp_path / "none", "--to", "pytorch", "--labels", labels, "--output", tmp_path / "new.pyth")


def test_an_existing_output_is_an_error_before_the_model_is_read(tmp_path):
    (tmp_path / "out.pyth").touch()
    with pytest.raises(UserError, match=r"out\.pyth exists; use another --output"):
        run("--input", tmp_path / "none", "--to", "pytorch", "--output", tmp_path / "out.pyth")
    with pytest.raises(UserError, match=r"exists and is not empty; use another --output"):
        run("--input", tmp_path / "none", "--output", tmp_path)


def test_two_clips_of_a_quantised_model_differ_in_one_line(tmp_path, clip_directory):
    model_directory.write(tmp_path / "model", small_models.model(seed=9))
    with pytest.raises(UserError, match=r"differ: \d+ of \d+ parameters, by at most \d"):
        dist_jax.load(tmp_path / "model", clip=str(clip_directory), quantize="int8")
