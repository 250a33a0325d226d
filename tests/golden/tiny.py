"""Weights and inputs for tiny.npz, which holds the results of the published PyTorch network for them.

tiny.npz (float32; no mixup, no crop):
  param_names, param_shapes     of the published state dict, without the prefix `backbone.base_encoder.`
  layerI_mean, _abs, _slice     f_I: mean, mean absolute value, [:2, :2, :8] of the (token, batch*S, D) array
  frame_embedding               CLIP's image embedding of each of the B*S frames, not normalised
  text_features                 CLIP's text embedding of each class, not normalised
  video_embedding               of DiST, unit length
  logits, loss                  soft-target cross-entropy with soft_labels
  grad_names, grad_norms        norm of the loss gradient of every DiST parameter that has one
  train_losses, train_lrs       12 AdamW steps, learning rate train_lrs[step], decay 1e-4 with the published exclusions
  trained_norms                 norms of the DiST parameters after these steps, sorted by name
"""

import json
import zlib
from pathlib import Path

import numpy as np

GOLDEN = dict(np.load(Path(__file__).with_name("tiny.npz")))
VOCAB_SIZE, CONTEXT_LENGTH, NUM_CLASSES, BATCH_SIZE, NUM_FRAMES, RESOLUTION = 200, 16, 7, 2, 8, 48
TOKENS_SEED = 1234  # of the tokens, and of clips and labels for forward pass and gradients; step i uses 1000 + i


def state_dict() -> dict[str, np.ndarray]:
    """The published state dict, without prefix."""
    shapes = zip(GOLDEN["param_names"], GOLDEN["param_shapes"], strict=True)
    return {str(name): weight(str(name), tuple(json.loads(str(shape)))) for name, shape in shapes}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A normal sample of rng(crc32(name)), scaled by the fan-in; LayerNorm scales have mean 1."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name == "logit_scale":
        return np.asarray(np.log(10.0), np.float32)
    if len(shape) == 1 and name.endswith("weight"):
        return 1.0 + 0.1 * x
    if name.endswith("bias"):
        return 0.02 * x
    if "embedding" in name or name.endswith("cls_token"):
        return 0.2 * x
    if name.endswith(("proj", "text_projection")) and len(shape) == 2:
        return x / np.sqrt(np.float32(shape[0]))
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    return x / np.sqrt(np.float32(fan_in))


def inputs(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips uint8 [B, T, H, W, 3], tokens int32 [K, context] (end token: the highest id), soft labels [B, K]."""
    rng = np.random.default_rng(seed)
    clips = rng.integers(0, 256, (BATCH_SIZE, NUM_FRAMES, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    tokens = np.zeros((NUM_CLASSES, CONTEXT_LENGTH), np.int32)
    for row, length in zip(tokens, (3 + i % 5 for i in range(NUM_CLASSES)), strict=True):
        row[0] = VOCAB_SIZE - 2
        row[1 : 1 + length] = rng.integers(1, VOCAB_SIZE - 2, length)
        row[1 + length] = VOCAB_SIZE - 1
    return clips, tokens, rng.dirichlet(np.ones(NUM_CLASSES), BATCH_SIZE).astype(np.float32)
