"""convert: whatever holds a model -> a model directory or the published state dict; what does not fit is said."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import CLASSES, DIST, TEXT, VISION

import dist_jax
from dist_jax import class_names, config, convert
from dist_jax.errors import UserError
from dist_jax.experiment import Experiment
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, model_directory
from dist_jax.weights.model_files import read_model


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return str(tmp_path / "classes.txt")


@pytest.fixture
def clip_directory(tmp_path):
    """The CLIP of `small_models.model()` as a Hugging Face directory with a tokenizer."""
    clip_weights.save_huggingface(small_models.clip(), tmp_path / "clip")
    small_models.write_tokenizer(tmp_path / "clip")
    return str(tmp_path / "clip")


@pytest.fixture
def workdir(tmp_path, clip_directory):
    """What training leaves behind."""
    return small_models.write_workdir(tmp_path / "run", clip_directory)


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


def same_params(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_workdir_becomes_a_model_directory_that_stands_alone(tmp_path, workdir, capsys):
    run("--input", workdir, "--output", tmp_path / "model")
    assert "2+4 frames of 8 pixels, reading 3 of 3 blocks" in capsys.readouterr().out
    found = model_directory.read(tmp_path / "model")
    same_params(found.dist_params, small_models.model().dist_params)
    same_params(found.clip.params, small_models.clip().params)
    assert found.classes == CLASSES
    assert (found.evaluation.num_views, found.evaluation.zero_shot_weight) == (2, 0.25)
    model, from_run = dist_jax.load(tmp_path / "model"), dist_jax.load(workdir)
    np.testing.assert_allclose(found.text_features, model.encode_text(CLASSES), atol=1e-6)
    video = small_models.video(1)
    np.testing.assert_allclose(model.classify(video), from_run.classify(video), atol=1e-6)


def test_a_workdir_on_other_clip_weights_is_refused(tmp_path, workdir):
    clip_weights.save_huggingface(small_models.clip(seed=9), tmp_path / "other")
    arguments = ["--input", workdir, "--clip", tmp_path / "other", "--output", tmp_path / "model"]
    with pytest.raises(UserError, match=r"trained with the CLIP .*clip .*but .*other holds another one .*--use-clip"):
        run(*arguments)
    with pytest.raises(UserError, match="has no tokenizer files, so it takes token ids"):
        run(*arguments, "--use-clip", "given")


def test_a_clip_that_has_moved_is_named_and_can_be_given(tmp_path, workdir, clip_directory):
    Path(clip_directory).rename(tmp_path / "moved")
    message = (
        rf"run holds no CLIP, and .* cannot be loaded \({clip_directory}: no such .*\); .*dist_jax\.load\(path, clip="
    )
    with pytest.raises(UserError, match=message):
        dist_jax.load(workdir)
    assert dist_jax.load(workdir, clip=str(tmp_path / "moved")).class_names == CLASSES


def test_a_run_remembers_where_its_clip_is_from_every_folder(tmp_path, clip_directory, monkeypatch):
    def run_with(weights):
        settings = config.defaults()
        settings.backbone.weights = weights
        of_tests = ml_collections.FrozenConfigDict(settings)
        model = VideoModel(ClipBackbone(VISION), DIST)
        backbone = {"name": weights, "fingerprint": "0"}
        return Experiment(of_tests, None, [], model, {}, None, backbone, ["gelu", "gelu"]).run_metadata(10)

    monkeypatch.chdir(tmp_path)
    first = run_with("clip")
    assert first.config["backbone"]["weights"] == clip_directory
    assert run_with("openai/clip-vit-base-patch16").config["backbone"]["weights"] == "openai/clip-vit-base-patch16"
    monkeypatch.chdir("/")
    again = run_with(clip_directory)
    assert not first.conflicts(again)
    other = dataclasses.replace(again, model=again.model | {"activations": ["quick_gelu", "gelu"]})
    assert "activations is ['quick_gelu', 'gelu'] (workdir: ['gelu', 'gelu'])" in first.conflicts(other)[0]
    older = {name: value for name, value in first.model.items() if name != "activations"}
    assert not dataclasses.replace(first, model=older).conflicts(other)


def test_a_workdir_tells_the_activations_of_its_clip(tmp_path, clip_directory):
    same = small_models.write_workdir(tmp_path / "same", clip_directory, activations=["quick_gelu", "quick_gelu"])
    assert read_model(same).dist == DIST
    other = small_models.write_workdir(tmp_path / "other", clip_directory, activations=["gelu", "quick_gelu"])
    with pytest.raises(
        UserError, match=r"trained with the activations gelu, quick_gelu in CLIP, but .*clip has quick_"
    ):
        read_model(other)


def test_the_same_clip_without_tokenizer_leaves_the_models_own(tmp_path, clip_directory):
    clip_weights.save_huggingface(small_models.clip(), tmp_path / "bare")
    own = dataclasses.replace(clip_weights.load(clip_directory), name="own")
    model_directory.write(tmp_path / "model", dataclasses.replace(small_models.model(), clip=own))
    run("--input", tmp_path / "model", "--clip", tmp_path / "bare", "--output", tmp_path / "new")
    assert (tmp_path / "new" / "merges.txt").is_file()


def test_a_tokenizer_is_named_as_everywhere(tmp_path, clip_directory, monkeypatch):
    model_directory.write(tmp_path / "model", small_models.model())
    monkeypatch.setenv("HOME", str(tmp_path))
    run("--input", tmp_path / "model", "--output", tmp_path / "new", "--tokenizer", "~/clip")
    monkeypatch.setattr("dist_jax.hub.download", lambda repository, patterns: Path(clip_directory))
    run("--input", tmp_path / "model", "--output", tmp_path / "newer", "--tokenizer", "somebody/clip")
    for name in ("new", "newer"):
        assert (tmp_path / name / "merges.txt").is_file()


def test_a_tokenizer_of_another_text_tower_is_refused(tmp_path, labels, clip_directory):
    model_directory.write(tmp_path / "model", small_models.model(text=dataclasses.replace(TEXT, vocab_size=53)))
    with pytest.raises(UserError, match=r"tokenizer of .* does not belong to the text tower of small CLIP: .* to 53;"):
        run(
            *("--input", tmp_path / "model", "--labels", labels),
            *("--tokenizer", clip_directory, "--output", tmp_path / "new"),
        )


def test_a_model_directory_gets_other_classes(tmp_path, labels, clip_directory):
    model_directory.write(tmp_path / "old", small_models.model())
    run("--input", tmp_path / "old", "--output", tmp_path / "new", "--labels", labels, "--tokenizer", clip_directory)
    found = model_directory.read(tmp_path / "new")
    assert found.classes == CLASSES
    assert found.text_features.shape == (3, 32)
    assert (tmp_path / "new" / "merges.txt").is_file()
    with pytest.raises(UserError, match=r"has no tokenizer files.*--tokenizer DIR"):
        run("--input", tmp_path / "old", "--output", tmp_path / "newer", "--labels", labels)


def test_nothing_is_overwritten(tmp_path):
    model_directory.write(tmp_path / "model", small_models.model())
    with pytest.raises(UserError, match=r"model exists and is not empty; give another --output"):
        run("--input", tmp_path / "model", "--output", tmp_path / "model")


def test_two_clips_that_differ_are_told_apart(tmp_path, clip_directory):
    model_directory.write(tmp_path / "model", small_models.model(seed=9))
    arguments = ["--input", tmp_path / "model", "--clip", clip_directory, "--output"]
    with pytest.raises(UserError, match=r"differ: \d+ of \d+ parameters, most .*, by up to \d.*--use-clip inside or"):
        run(*arguments, tmp_path / "a")
    run(*arguments, tmp_path / "a", "--use-clip", "given")
    same_params(model_directory.read(tmp_path / "a").clip.params, small_models.clip().params)
    run(*arguments, tmp_path / "b", "--use-clip", "inside")
    same_params(model_directory.read(tmp_path / "b").clip.params, small_models.clip(seed=9).params)


def test_the_same_weights_with_another_activation_are_another_clip(tmp_path, clip_directory):
    vision = dataclasses.replace(VISION, activation="gelu")
    same = dataclasses.replace(
        small_models.clip(vision=vision), fingerprint=clip_weights.load(clip_directory).fingerprint
    )
    model_directory.write(tmp_path / "model", dataclasses.replace(small_models.model(), clip=same))
    with pytest.raises(UserError, match="differ: vision activation gelu and quick_gelu"):
        run("--input", tmp_path / "model", "--clip", clip_directory, "--output", tmp_path / "new")


def test_what_a_model_knows_is_not_asked_for(tmp_path, workdir):
    model_directory.write(tmp_path / "model", small_models.model())
    for source in (tmp_path / "model", workdir):
        with pytest.raises(UserError, match="which knows the CLIP blocks that it reads; leave out --selected"):
            run("--input", source, "--output", tmp_path / "new", "--selected", "0,1,2")


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer there .*vocab\.json"):
        run("--input", "x", "--output", tmp_path / "new", "--tokenizer", tmp_path)


def test_a_clip_alone_is_no_model(tmp_path, clip_directory):
    with pytest.raises(UserError, match=r"holds no DiST network \(perhaps a CLIP alone, which is for --clip\)"):
        run("--input", clip_directory, "--output", tmp_path / "new")
    with pytest.raises(UserError, match=r"holds no DiST network \(dist_net\.\*\); if it is a CLIP"):
        run("--input", f"{clip_directory}/model.safetensors", "--output", tmp_path / "new")


def test_a_choice_between_two_clips_needs_two():
    with pytest.raises(UserError, match="--use-clip given chooses between two CLIPs; name the other one with --clip"):
        run("--input", "x", "--output", "y", "--use-clip", "given")


def test_a_clip_that_does_not_fit_is_refused(tmp_path):
    vision = dataclasses.replace(VISION, patch_size=2, num_layers=2)
    clip_weights.save_huggingface(small_models.clip(vision=vision), tmp_path / "clip")
    model_directory.write(tmp_path / "model", small_models.model())
    with pytest.raises(UserError, match=r"patch 2 where the network needs 4, 2 blocks where the network reads block 2"):
        run(
            *("--input", tmp_path / "model", "--clip", tmp_path / "clip"),
            *("--use-clip", "given", "--output", tmp_path / "new"),
        )


@pytest.mark.parametrize("text", ["3,1", "1,1", "-1,2", "a"])
def test_wrong_selections_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        run("--input", "x", "--output", "y", f"--selected={text}")
    assert "--selected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\n\nb\n", "line 2 is empty"), ("", "no class names"), ("a\nb\na\n", "1 and 3 are both 'a'")],
)
def test_broken_label_files_are_refused(tmp_path, content, message):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        class_names.read(tmp_path / "labels.txt")


# Damage to a model directory.


@pytest.fixture
def directory(tmp_path):
    model_directory.write(tmp_path / "model", small_models.model())
    return tmp_path / "model"


def rewrite(directory, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_missing_extra_and_misshapen_tensors_are_all_named(directory):
    def change(tensors):
        del tensors["clip/vision/proj"]
        tensors["dist/more"] = np.zeros(2)
        tensors["dist/proj"] = np.zeros((64, 31), np.float32)

    rewrite(directory, change)
    with pytest.raises(UserError) as error:
        model_directory.read(directory)
    message = str(error.value)
    assert "clip/vision/proj is missing" in message
    assert "dist/more is not known" in message
    assert "dist/proj has shape [64, 31] where [64, 32] is needed" in message
    assert "\n" not in message


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_tensors_are_refused(directory, kept):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        dist_jax.load(directory)


def test_missing_tensors_and_broken_sizes_are_refused(directory):
    sizes = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(sizes | {"dist": {"frames": 4}}))
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a model directory"):
        model_directory.read(directory)
    (directory / "config.json").write_text(json.dumps(sizes))
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        model_directory.read(directory)


BROKEN_CONFIGS = {
    "no evaluation": (lambda config: config.pop("evaluation"), "'evaluation' is missing"),
    "no clip": (lambda config: config.pop("clip"), "'clip' is missing"),
    "no fingerprint": (lambda config: config["clip"].pop("fingerprint"), "'fingerprint' is missing"),
    "half an evaluation": (lambda config: config["evaluation"].pop("num_views"), "num_views"),
    "an unknown field": (lambda config: config["evaluation"].update(colour=1), "colour"),
    "an unknown size": (lambda config: config["vision"].update(colour=1), "colour"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
def test_broken_configurations_are_refused(directory, change, message):
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))
    for read in (model_directory.read, model_directory.read_dist):
        with pytest.raises(UserError, match=rf"config\.json is not the configuration of a model directory .*{message}"):
            read(directory)


@pytest.mark.parametrize("names", [("a", " b"), ("a\u2028b",), ("a\x1cb",), ("",), ("a", "b", "a")])
def test_class_names_that_a_file_cannot_hold_are_refused(tmp_path, names):
    features = np.zeros((len(names), 32), np.float32)
    with pytest.raises(UserError, match=r"class name"):
        model_directory.write(
            tmp_path / "model", dataclasses.replace(small_models.model(), classes=names, text_features=features)
        )
    assert not (tmp_path / "model").exists()


def test_an_interrupted_write_leaves_no_half_directory(tmp_path):
    broken = dataclasses.replace(small_models.model(), classes=("a\nb",), text_features=np.zeros((1, 32), np.float32))
    with pytest.raises(UserError, match="line break"):
        model_directory.write(tmp_path / "model", broken)
    assert not (tmp_path / "model").exists()


# With PyTorch installed: published files.


def published(model):
    return dist_official.to_published(model.dist_params, clip_weights.to_openai(model.clip))


def test_published_to_ours_to_published_bit_for_bit(tmp_path):
    torch = pytest.importorskip("torch")
    state = published(small_models.model())
    source = small_models.write_pyth(tmp_path / "a.pyth", state)
    run("--input", source, "--output", tmp_path / "model")
    run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "b.pyth")
    back = torch.load(tmp_path / "b.pyth", weights_only=True)["model_state"]
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert (back[name].numpy().tobytes(), tuple(back[name].shape)) == (tensor.tobytes(), tensor.shape), name
    with pytest.raises(UserError, match=r"b\.pyth exists; give another --output"):
        run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "b.pyth")


def test_the_written_state_loads_strictly(tmp_path):
    torch = pytest.importorskip("torch")
    from helpers import torch_reference

    model_directory.write(tmp_path / "model", small_models.model())
    run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")
    state = torch.load(tmp_path / "x.pyth", weights_only=True)["model_state"]
    torch_reference.Published(VISION, TEXT, DIST).load_state_dict(state, strict=True)


def test_a_published_file_alone_and_with_labels(tmp_path, labels, clip_directory):
    source = small_models.write_pyth(tmp_path / "x.pyth", published(small_models.model()))
    assert dist_jax.load(source).encode_video(small_models.video(1)).shape == (1, 32)
    run("--input", source, "--clip", clip_directory, "--labels", labels, "--output", tmp_path / "model")
    assert dist_jax.load(tmp_path / "model").classify(small_models.video(1)).shape == (1, 3)


def test_a_subset_of_layers_must_be_said(tmp_path):
    dist = dataclasses.replace(DIST, layers=(0, 2))
    source = small_models.write_pyth(tmp_path / "x.pyth", published(small_models.model(dist=dist)))
    with pytest.raises(UserError, match=r"has 2 layers, but its CLIP 3 blocks; .*--selected 1,3"):
        run("--input", source, "--output", tmp_path / "model")
    run("--input", source, "--output", tmp_path / "model", "--selected", "0,2")
    assert model_directory.read(tmp_path / "model").dist == dist
    with pytest.raises(UserError, match="3 blocks where the network reads block 3, counted from 0"):
        run("--input", source, "--output", tmp_path / "other", "--selected", "0,3")


def test_a_network_without_clip_needs_one(tmp_path, clip_directory):
    state = {name: x for name, x in published(small_models.model()).items() if ".dist_net." in name}
    source = small_models.write_pyth(tmp_path / "x.pyth", state)
    with pytest.raises(UserError, match="without its CLIP; name the CLIP weights with --clip"):
        run("--input", source, "--output", tmp_path / "model")
    assert read_model(source, clip=clip_directory).dist == DIST


def test_no_text_tower_no_published_state(tmp_path):
    pytest.importorskip("torch")
    model_directory.write(tmp_path / "model", small_models.model(text=None))
    with pytest.raises(UserError, match="the published model has a text tower"):
        run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")


def test_what_the_published_format_cannot_say_is_refused(tmp_path):
    pytest.importorskip("torch")
    vision = dataclasses.replace(VISION, num_heads=4)
    text = dataclasses.replace(TEXT, activation="gelu")
    model_directory.write(tmp_path / "model", small_models.model(vision=vision, text=text))
    with pytest.raises(UserError, match=r"vision heads are 4 .* implies 2; text activation is gelu where quick_gelu"):
        run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")
    assert not (tmp_path / "x.pyth").exists()


def test_bfloat16_stays_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    model = small_models.model()
    half = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), model.dist_params)
    model_directory.write(tmp_path / "model", dataclasses.replace(model, dist_params=half))
    run("--input", tmp_path / "model", "--to", "pytorch", "--output", tmp_path / "x.pyth")
    proj = torch.load(tmp_path / "x.pyth", weights_only=True)["model_state"]["backbone.base_encoder.dist_net.proj"]
    assert proj.dtype == torch.bfloat16
    np.testing.assert_array_equal(proj.float().numpy(), half["proj"].astype(np.float32))


class Trap:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"model_state": {"dist_net.proj": Trap()}}, tmp_path / "x.pyth")
    with pytest.raises(UserError, match="run code"):
        run("--input", tmp_path / "x.pyth", "--output", tmp_path / "model")
    assert "this must not run" not in capsys.readouterr().out
