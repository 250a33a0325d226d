"""Model directories on the hub: which repositories are models, uploads, and errors in one line."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import small_models
from helpers.hub_stub import TOKEN, Repository, serve_hub

import dist_jax
from dist_jax import config, convert, model_card, predict
from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import hub_models, model_directory
from dist_jax.workdir.run_metadata import RunMetadata, write_run_metadata

CLASSES = ("a dog", "a cat")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model directory of one block with two classes."""
    vision = dataclasses.replace(small_models.VISION, num_layers=1)
    dist = dataclasses.replace(small_models.DIST, layers=(0,), num_pooling_layers=1)
    model = small_models.model(dist=dist, vision=vision)
    model = dataclasses.replace(model, class_names=CLASSES, text_features=np.eye(2, 32, dtype=np.float32))
    path = tmp_path_factory.mktemp("hub_models") / "model"
    model_directory.write(path, model)
    return path


@pytest.fixture
def hub(tmp_path):
    with serve_hub(tmp_path / "cache") as hub:
        yield hub


def test_the_configuration_of_a_repository_decides_what_it_is(hub, directory, tmp_path):
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    hub.add("me/model", directory)
    hub.add("me/clip", tmp_path / "clip")
    assert hub_models.locate("me/clip") == "me/clip"
    located = Path(hub_models.locate("me/model"))
    assert {file.name for file in located.iterdir()} == {"config.json", "model.safetensors", "labels.txt"}
    assert dist_jax.load("me/model").class_names == CLASSES
    assert dist_jax.load("me/clip").class_names == ()


def test_an_existing_folder_is_not_a_repository(hub, directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(directory, "me/model")
    assert hub_models.locate("me/model") == "me/model"
    assert not hub.requests


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub without Xet
def test_a_pushed_model_is_loaded_again(hub, directory, tmp_path, capfd):
    convert.main(["--input", str(directory), "--output", str(tmp_path / "new"), "--push", "me/new", "--private"])
    assert hub.repositories["me/new"].private
    local = {file.name: file.read_bytes() for file in (tmp_path / "new").iterdir()}
    assert {name: data for name, data in hub.repositories["me/new"].files.items() if name in local} == local
    assert TOKEN not in "".join(capfd.readouterr())
    assert TOKEN.encode() not in b"".join(local.values())
    assert dist_jax.load("me/new").fingerprint == dist_jax.load(directory).fingerprint
    # The next upload replaces the model, and removes files that it has not.
    hub.repositories["me/new"].files["vocab.json"] = b"{}"
    convert.main(["--input", "me/new", "--output", str(tmp_path / "newer"), "--push", "me/new"])
    assert set(hub.repositories["me/new"].files) == {*local, ".gitattributes"}


def make_card(directory, origin):
    """The card of a model directory, without the padding of its tables."""
    card = model_card.make_card("me/x", model_directory.read(directory), origin, "mit")
    return re.sub(" +\\|", " |", card)


def test_the_card_says_what_the_model_is(directory):
    card = make_card(directory, model_card.Origin())
    front_matter, page = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front_matter) == {
        "license": "mit",
        "library_name": "dist_jax",
        "pipeline_tag": "video-classification",
        "tags": ["jax", "dist", "clip", "video-classification"],
    }
    assert "python -m dist_jax.predict --model me/x --video some.mp4\n" in page
    for row in ("| classes | 2 |", "| frames (CLIP + temporal encoder) | 2+4 |", "| resolution | 8 pixels |"):
        assert row in page
    assert "Not evaluated." in page
    assert "without run metadata" in page


def test_the_card_has_the_accuracy_and_the_data_of_the_workdir(directory, tmp_path):
    settings = config.defaults()
    settings.data.train = "/home/me/secret/records/train"
    sizes = dataclasses.asdict(small_models.DIST)
    backbone = {"name": "clip", "fingerprint": ""}
    write_run_metadata(tmp_path, RunMetadata(settings.to_dict(), {"label": []}, backbone, sizes, num_records=10))
    (tmp_path / "results").mkdir()
    report = {"step": 3, "views": 3, "videos": 1200, "top1": 0.836, "top5": 0.963}
    (tmp_path / "results" / "val.json").write_text(json.dumps(report))
    card = make_card(directory, model_card.read_origin(str(tmp_path)))
    assert "After 3 training steps" in card
    assert "| 1,200 | 3 | 83.6% | 96.3% |" in card
    assert "`records/train`: 10 clips." in card
    assert "secret" not in card


def test_the_citation_is_that_of_the_repository():
    cff = yaml.safe_load((Path(dist_jax.__file__).parents[1] / "CITATION.cff").read_text())
    paper = cff["preferred-citation"]
    for text in (cff["title"], paper["title"], str(paper["year"]), paper["url"], paper["collection-title"]):
        assert f"{{{text}}}" in model_card.CITATION
    assert all(
        f"{author['family-names']}, {author['given-names']}" in model_card.CITATION for author in paper["authors"]
    )


BAD_REPOSITORIES = {
    "no such name": (None, "has no such repository, or a private one; check the name, or log in"),
    "gated": (dict(gated=True), "only with its owner's permission; request it there"),
    "neither a model nor a CLIP": (
        {},
        "neither a model directory of dist_jax nor a backbone: it has none of model.safe",
    ),
}


@pytest.mark.parametrize(("access", "message"), BAD_REPOSITORIES.values(), ids=BAD_REPOSITORIES)
def test_an_unsuitable_repository_is_an_error_in_one_line(hub, access, message):
    if access is not None:
        hub.repositories["me/other"] = Repository({"config.json": b'{"model_type": "bert"}'}, **access)
    with pytest.raises(UserError, match=f"^me/other: .*{message}") as error:
        predict.main(["--model", "me/other", "--video", "x.mp4"])
    assert "\n" not in str(error.value)


def test_a_private_repository_needs_a_token(directory, tmp_path):
    with serve_hub(tmp_path / "cache", token=None) as hub:
        hub.add("me/model", directory, private=True)
        with pytest.raises(UserError, match=r"has no such repository, or a private one; .* hf auth login"):
            dist_jax.load("me/model")
        arguments = ["--input", str(directory), "--output", str(tmp_path / "new"), "--push", "me/new"]
        with pytest.raises(UserError, match=r"me/new: uploads to the Hugging Face hub need a token; .*hf auth login"):
            convert.main(arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("repository", "options", "message"),
    [
        ("others/x", [], r"new is complete, but uploading it to others/x failed: .* refuses access \(status 403\)"),
        ("me/public", ["--private"], "me/public exists and is public"),
    ],
)
def test_a_failed_upload_leaves_a_complete_directory(hub, directory, tmp_path, repository, options, message):
    hub.add("me/public", directory)
    with pytest.raises(UserError, match=message):
        convert.main(["--input", str(directory), "--output", str(tmp_path / "new"), "--push", repository, *options])
    assert (tmp_path / "new" / "README.md").exists()
    assert dist_jax.load(tmp_path / "new").class_names == CLASSES  # a card does not disturb


def test_a_repository_with_other_files_is_not_overwritten(hub, directory, tmp_path):
    hub.repositories["me/bert"] = Repository({"config.json": b'{"model_type": "bert"}'})
    arguments = ["--input", str(directory), "--output", str(tmp_path / "new"), "--push", "me/bert"]
    with pytest.raises(UserError, match="me/bert exists and is not a model directory of dist_jax; use another name"):
        convert.main(arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--push", "model"], "model: must be a repository of the Hugging Face hub: owner/name"),
        (["--push", "me/x", "--to", "pytorch"], "--push uploads a model directory; remove --to pytorch"),
        (["--private"], "--private and --license describe the repository of --push"),
    ],
)
def test_options_of_an_upload_that_do_not_fit_are_an_error(hub, directory, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        convert.main(["--input", str(directory), "--output", str(tmp_path / "new"), *options])
    assert not hub.requests
