"""Tests of the run metadata of an experiment."""

import dataclasses

import ml_collections
from helpers.small_models import DIST, VISION

from dist_jax import config
from dist_jax.experiment import Experiment
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.video_model import VideoModel


def test_run_metadata_has_the_absolute_path_and_the_activations_of_clip(tmp_path, monkeypatch):
    def run_metadata(weights):
        settings = config.defaults()
        settings.backbone.weights = weights
        frozen_settings = ml_collections.FrozenConfigDict(settings)
        model = VideoModel(ClipBackbone(VISION), DIST)
        backbone = {"name": weights, "fingerprint": "0"}
        activations = ["gelu", "gelu"]
        return Experiment(frozen_settings, None, model, {}, {}, {}, [], backbone, activations).run_metadata(10)

    clip_directory = tmp_path / "clip"
    clip_directory.mkdir()
    monkeypatch.chdir(tmp_path)
    first = run_metadata("clip")
    assert first.config["backbone"]["weights"] == str(clip_directory)
    assert run_metadata("openai/clip-vit-base-patch16").config["backbone"]["weights"] == "openai/clip-vit-base-patch16"
    monkeypatch.chdir("/")
    same = run_metadata(str(clip_directory))
    assert not first.conflicts(same)
    other = dataclasses.replace(same, model=same.model | {"activations": ["quick_gelu", "gelu"]})
    assert "activations is ['quick_gelu', 'gelu'] (workdir: ['gelu', 'gelu'])" in first.conflicts(other)[0]
    older = {name: value for name, value in first.model.items() if name != "activations"}
    assert not dataclasses.replace(first, model=older).conflicts(other)
