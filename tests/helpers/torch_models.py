"""Random PyTorch models to compare with, and open_clip. Import it only where PyTorch is installed."""

from types import ModuleType

import jax
import numpy as np
import pytest
import torch


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Makes every parameter random: no scale is 1 and no bias 0. Returns the model in evaluation mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn_like(parameter)
            is_scale = name.endswith("weight") and parameter.ndim == 1
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            # Larger weights of wide layers would amplify the rounding of float32 beyond the tolerances.
            parameter.copy_(1 + noise if is_scale else noise * min(1, (32 / fan_in) ** 0.5))
    return model.eval()


def pixels(resolution: int, num_frames: int = 3) -> np.ndarray:
    """Random normalised frames float32 [F, H, W, 3]."""
    return np.random.default_rng(0).standard_normal((num_frames, resolution, resolution, 3)).astype(np.float32)


def to_torch(frames: np.ndarray) -> torch.Tensor:
    """Frames [F, H, W, 3] -> [F, 3, H, W]."""
    return torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())


def assert_close(ours: jax.Array | np.ndarray, theirs: torch.Tensor, tolerance: float) -> None:
    """Compares all numbers; `tolerance` is a share of the largest one."""
    expected = theirs.detach().numpy()
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def import_open_clip() -> ModuleType:
    """open_clip; skips the tests of a file if it is not installed.

    It imports torchvision. With PyTorch for CPU, the operators of the usual wheel of torchvision, which is for CUDA, do
    not load, and the import fails. open_clip does not call them: it is sufficient that they exist.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")
    return pytest.importorskip("open_clip")
