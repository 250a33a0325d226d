"""Commands that compile the training step of a small model."""

import importlib.util
from pathlib import Path

from dist_jax.weights import clip
from helpers import small_models

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
CONFIG = "--config=configs/k400_vitb.py"


def small_run(folder: Path) -> list[str]:
    """Flags of a small run on a CLIP in `folder`."""
    clip.save_huggingface(small_models.clip_model(), folder)
    settings = {
        "backbone.weights": folder,
        "batch_size": 8,
        "mix.mixup_alpha": 0,  # without Beta samples the step compiles faster
        "mix.cutmix_alpha": 0,
        "model.num_frames": 4,
        "model.integration_width": 64,
        "model.num_pooling_layers": 1,
        "data.train": "data/ssv2/train@128",
    }
    return [CONFIG, "--topology=v5e-4", *(f"--config.{name}={value}" for name, value in settings.items())]


def assert_one_line(outcome: tuple[int, str], message: str) -> None:
    """Checks that a command ended with status 1 and one line that contains `message`."""
    status, output = outcome
    assert status == 1, output
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert message in error
