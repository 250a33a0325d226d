"""The frozen towers on several devices and with quantised kernels, for all backbones but CLIP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import pe_files, siglip_files

from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.models.backbones.pe import PeBackbone
from dist_jax.models.backbones.siglip import SiglipBackbone
from dist_jax.weights import frozen, table

MODELS = {
    "siglip": (SiglipBackbone, siglip_files.VISION, siglip_files.siglip_model),
    "pe": (PeBackbone, pe_files.VISION, pe_files.pe_model),
}
ALL = pytest.mark.parametrize("kind", MODELS)


def features(kind: str, quantize: str = "", mesh_sizes: tuple[int, int, int] = (1, 1, 1)) -> tuple[jax.Array, ...]:
    """The stream after all blocks and the image embeddings of eight clips."""
    backbone_class, vision, model = MODELS[kind]
    mesh = make_mesh(
        dict(zip(("data", "fsdp", "tensor"), mesh_sizes, strict=True)), jax.devices()[: np.prod(mesh_sizes)]
    )
    leaves = table.flatten(model().params)
    params = table.unflatten(
        {path: frozen.place(mesh, jnp.float32, quantize, path, np.asarray(leaf)) for path, leaf in leaves.items()}
    )
    backbone = backbone_class(vision, None, jnp.float32, quantize)
    frames = np.random.default_rng(0).standard_normal((8, 1, 8, 8, 3), np.float32)

    @jax.jit
    def run(params, frames):
        stream = backbone.features(params, frames, (0, 1, 2), mesh)
        return stream, backbone.frame_embeddings(params, stream[-1])

    return run(params, jax.device_put(frames, sharding.batch_sharding(mesh)))


@ALL
def test_features_do_not_depend_on_the_mesh(kind):
    for on_mesh, on_one in zip(features(kind, mesh_sizes=(2, 2, 2)), features(kind), strict=True):
        np.testing.assert_allclose(on_mesh, on_one, atol=1e-4)


@ALL
def test_quantised_features_are_close_to_those_of_the_float_tower(kind):
    for quantized, exact in zip(features(kind, "int8"), features(kind), strict=True):
        cosines = np.sum(quantized * exact, -1) / np.linalg.norm(quantized, axis=-1) / np.linalg.norm(exact, axis=-1)
        assert 0.999 < np.min(cosines) < 1
        assert not np.array_equal(quantized, exact)
