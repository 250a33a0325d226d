from pathlib import Path

import pytest
from helpers.clip_files import OPENAI

from dist_jax.weights import clip as clip_weights


@pytest.fixture(scope="module")
def original() -> clip_weights.ClipModel:
    return clip_weights.from_openai(OPENAI, "original")


@pytest.fixture
def huggingface(original, tmp_path) -> Path:
    """`original` as a Hugging Face directory."""
    clip_weights.save_huggingface(original, tmp_path / "clip")
    return tmp_path / "clip"
