"""Tests of dist_jax.load of the workdirs of probes, of several labels, of several labels per clip, and of templates."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import CLASSES

import dist_jax
from dist_jax import convert
from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_directory

VIDEO = small_models.video(2)
TWO_LABELS = {"verb": ("cut", "wash"), "noun": ("a dog", "a cat", "pan")}


@pytest.fixture(scope="module")
def clip_directory(tmp_path_factory):
    """The CLIP of `small_models` as a Hugging Face directory with tokenizer."""
    folder = tmp_path_factory.mktemp("workdirs") / "clip"
    clip_weights.save_huggingface(small_models.clip_model(), folder)
    small_models.write_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module")
def write(clip_directory, tmp_path_factory):
    """`small_models.write_workdir` in a new folder."""
    return lambda **options: small_models.write_workdir(tmp_path_factory.mktemp("run"), clip_directory, **options)


@pytest.fixture(scope="module")
def probe(write):
    """The workdir of a linear probe with two labels."""
    return write(network="linear_probe", class_names=TWO_LABELS)


def test_the_classes_of_a_label_are_the_part_of_the_probe_for_it(probe):
    models = [dist_jax.load(probe, label=label) for label in TWO_LABELS]
    assert [model.class_names for model in models] == list(TWO_LABELS.values())
    trained = small_models.video_model("linear_probe", {label: len(names) for label, names in TWO_LABELS.items()})
    frozen = {name: small_models.clip_model().params[name] for name in ("vision", "logit_scale")}
    embed = jax.jit(trained.embed)
    expected = embed(small_models.network_params(trained), frozen, trained.normalize(VIDEO))  # [B, 2 + 3]
    np.testing.assert_allclose(models[0].classify(VIDEO), jax.nn.softmax(expected[:, :2]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(models[1].logits(VIDEO), expected[:, 2:], rtol=1e-4, atol=1e-4)
    assert models[1].features(VIDEO).shape == (1, 2, 2, 1 + 4, 128)  # the last block


def test_a_probe_has_no_other_classes_embeddings_or_mixture(probe):
    model = dist_jax.load(probe, label="noun")
    for call in (lambda: model.classify(VIDEO, ["a dog"]), lambda: model.logits(VIDEO, np.zeros((1, 32), np.float32))):
        with pytest.raises(UserError, match="linear_probe has its own classifier, so it cannot classify other texts"):
            call()
    with pytest.raises(UserError, match="linear_probe has no video embeddings"):
        model.encode_video(VIDEO)
    with pytest.raises(UserError, match=r"zero_shot_weight=0\.5: linear_probe cannot be mixed with CLIP; use 0"):
        model.classify(VIDEO, zero_shot_weight=0.5)


def test_a_probe_is_not_converted(probe, tmp_path):
    arguments = ["--input", probe, "--label-key", "verb", "--output", str(tmp_path / "model")]
    with pytest.raises(UserError, match="contains the network linear_probe, but only DiST networks can be converted"):
        convert.main(arguments)


def test_a_run_with_two_labels_needs_a_choice(write, tmp_path):
    workdir = write(class_names=TWO_LABELS)
    with pytest.raises(UserError, match=r"has the labels verb, noun; choose one: dist_jax\.load\(path, label="):
        dist_jax.load(workdir)
    with pytest.raises(UserError, match="has no label 'action'; its labels: verb, noun"):
        dist_jax.load(workdir, label="action")
    assert dist_jax.load(workdir, label="noun").class_names == TWO_LABELS["noun"]
    convert.main(["--input", workdir, "--label-key", "noun", "--output", str(tmp_path / "model")])
    model = model_directory.read(tmp_path / "model")
    assert (model.dist, model.class_names) == (small_models.DIST, TWO_LABELS["noun"])
    params = small_models.network_params(small_models.video_model("dist", {"verb": 2, "noun": 3}))
    second = params | {"proj": params["proj"][:, 32:]}
    jax.tree.map(np.testing.assert_array_equal, model.dist_params, second)
    with pytest.raises(UserError, match="has one classifier; remove the label 'noun'"):
        dist_jax.load(tmp_path / "model", label="noun")


def test_num_frames_is_only_for_plain_clip(probe):
    with pytest.raises(UserError, match=r"num_frames=2 is for plain CLIP; use dist_jax\.load\(path\)\.for_frames\(2\)"):
        dist_jax.load(probe, num_frames=2)


def test_class_names_get_the_prompt_templates_of_the_training(write, tmp_path):
    workdir = write(prompt_templates=("{} x", "see {}"))
    model = dist_jax.load(workdir)
    texts = np.asarray(model.encode_text([text for name in CLASSES for text in (f"{name} x", f"see {name}")]))
    mean = texts.reshape(3, 2, -1).mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode_classes(CLASSES), expected, atol=1e-6)
    classify = partial(model.classify, VIDEO, zero_shot_weight=1.0)  # compiles only CLIP
    probabilities = classify(expected)
    np.testing.assert_allclose(classify(), probabilities, rtol=1e-4)
    np.testing.assert_allclose(classify(CLASSES), probabilities, rtol=1e-4)
    convert.main(["--input", workdir, "--output", str(tmp_path / "model")])
    converted = model_directory.read(tmp_path / "model")
    np.testing.assert_allclose(converted.text_features, expected, atol=1e-6)
    assert converted.prompt_templates == ("{} x", "see {}")


def test_probabilities_of_several_labels_per_clip_are_independent(write, tmp_path):
    workdir = write()
    change_setting(workdir, "multi_label", True)
    model = dist_jax.load(workdir)
    logits = np.asarray(model.logits(VIDEO, zero_shot_weight=1.0))
    np.testing.assert_allclose(model.classify(VIDEO, zero_shot_weight=1.0), 1 / (1 + np.exp(-logits)), rtol=1e-4)
    convert.main(["--input", workdir, "--output", str(tmp_path / "model")])
    assert model_directory.read(tmp_path / "model").multi_label


def change_setting(workdir, name, value):
    """Changes config.data.NAME in run.json."""
    with open(f"{workdir}/run.json", encoding="utf-8") as file:
        content = json.load(file)
    content["config"]["data"][name] = value
    with open(f"{workdir}/run.json", "w", encoding="utf-8") as file:
        json.dump(content, file)


def test_a_run_of_an_older_version_has_one_label_and_the_dist_network(write):
    workdir = write()
    with open(f"{workdir}/run.json", encoding="utf-8") as file:
        content = json.load(file)
    content |= {"class_names": list(CLASSES), "format_version": 2}
    del content["prompt_templates"], content["config"]["model"]["network"], content["config"]["data"]["multi_label"]
    del content["model"]["num_labels"], content["model"]["num_classes"]
    with open(f"{workdir}/run.json", "w", encoding="utf-8") as file:
        json.dump(content, file)
    model = dist_jax.load(workdir)
    assert model.class_names == CLASSES
    assert not model.has_own_classes
