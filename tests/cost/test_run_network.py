"""Parameters and operations of a finished run, from run.json."""

import dataclasses

import pytest

from dist_jax import config as settings
from dist_jax.cost import run_network
from dist_jax.errors import UserError
from dist_jax.models.dist_network import DistConfig
from dist_jax.workdir.run_metadata import RunMetadata

# ViT-B/16 with 8+16 frames, as tests/test_configs.py resolves configs/k400_vitb.py.
B16 = DistConfig(
    num_frames=16,
    alpha=2,
    layers=tuple(range(12)),
    patch_size=16,
    backbone_width=768,
    embed_dim=512,
    integration_width=384,
    temporal_width=96,
    num_pooling_layers=4,
)


def metadata(without: tuple[str, ...] = (), network: str = "dist", **changes: object) -> RunMetadata:
    """A run with the sizes of B16 and changes, read from JSON: lists instead of tuples."""
    config = settings.defaults().to_dict()
    config["model"]["network"] = network
    sizes = dataclasses.asdict(B16) | {"layers": list(B16.layers), "resolution": 224, "activations": ["quick_gelu"]}
    sizes = {name: size for name, size in (sizes | changes).items() if name not in without}
    return RunMetadata(config, {"label": ["a", "b"]}, {"name": "clip", "fingerprint": "0"}, sizes, num_records=10)


def test_the_figures_of_the_published_network():
    run = metadata()
    assert run_network.count_trainable(run) == 26_105_184
    assert run_network.count_operations(run) / 2e9 == pytest.approx(161.0, rel=2e-3)  # 10^9 multiply-adds


def test_sizes_that_older_runs_do_not_have_are_the_defaults_of_the_network():
    assert run_network.count_trainable(metadata(without=("num_labels", "num_classes"))) == 26_105_184


def test_a_network_on_siglip_has_no_class_token():
    on_siglip = run_network.count_trainable(metadata(num_prefix_tokens=0, embed_dim=768))
    assert on_siglip == 26_166_624  # as tests/test_configs.py counts it
    assert run_network.count_trainable(metadata(embed_dim=768)) - on_siglip == 12 * 8 * 384


def test_plain_clip_has_no_trained_parameters_and_needs_the_backbone_only():
    run = metadata(network="none")
    assert run_network.count_trainable(run) == 0
    assert run_network.count_operations(run) / 2e9 == pytest.approx(8 * 17.6, rel=5e-3)  # 17.6 per frame: ViT-B/16


def test_a_linear_probe_has_the_parameters_of_one_linear_layer():
    run = metadata(network="linear_probe", layers=[11], num_classes=400)
    assert run_network.count_trainable(run) == 768 * 400 + 400
    backbone = run_network.count_operations(metadata(network="none"))
    assert run_network.count_operations(run) == pytest.approx(backbone + 2 * 768 * 400, rel=1e-6)


@pytest.mark.parametrize(("name", "message"), [("alpha", "'alpha'"), ("resolution", "resolution is missing")])
def test_missing_sizes_are_named(name, message):
    with pytest.raises(UserError, match=f"^run.json has not all sizes of the network .*{message}"):
        run_network.count_trainable(metadata(without=(name,)))
