"""The training step of the PyTorch reference network of tests/, for `scripts.bench_step`. Needs PyTorch."""

import sys
from pathlib import Path

from dist_jax.cost.measure import Measurement, time_steps
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.dist_network import DistConfig

PROGRAM = "PyTorch train"


def measure(vision: VisionConfig, dist: DistConfig, batch_size: int, num_classes: int, num_steps: int) -> Measurement:
    """Runs the step on the CPU in float32, or on a GPU with bfloat16 autocast: CLIP without gradient, DiST, AdamW."""
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers import torch_reference

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    tower = torch_reference.Vision(vision).to(device).requires_grad_(False)
    network = torch_reference.Dist(dist).to(device)
    for parameter in [*tower.parameters(), *network.parameters()]:
        torch.nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3.2e-4, weight_decay=1e-4)
    size = (batch_size, 3, dist.num_frames, vision.resolution, vision.resolution)
    video = torch.randn(size, device=device)
    text = torch.nn.functional.normalize(torch.randn(num_classes, vision.embed_dim, device=device), dim=-1)
    targets = torch.softmax(torch.randn(batch_size, num_classes, device=device), dim=-1)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            frames = video[:, :, :: dist.alpha].transpose(1, 2).flatten(0, 1)  # [B*S, 3, H, W]
            with torch.no_grad():
                streams = tower.features(frames)
            features = [streams[layer].unflatten(0, (batch_size, -1)) for layer in dist.layers]
            embedding = network(features, video)
        logits = 100 * torch.nn.functional.normalize(embedding.float(), dim=-1) @ text.T
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds, peak_memory = time_steps(step, num_steps)
    if device == "cuda":
        peak_memory = torch.cuda.max_memory_allocated()
    return Measurement(PROGRAM, seconds, None, None, None, None, peak_memory, 0.0)
