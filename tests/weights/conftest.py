from pathlib import Path

import pytest
from helpers import small_models
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


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in small_models.CLASSES))
    return str(tmp_path / "classes.txt")


@pytest.fixture
def clip_directory(tmp_path):
    """The CLIP of `small_models.model()` as a Hugging Face directory with tokenizer."""
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    small_models.write_tokenizer(tmp_path / "clip")
    return str(tmp_path / "clip")
