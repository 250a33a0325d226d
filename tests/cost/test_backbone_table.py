"""The table of backbones: sizes of published models, bad names, and a step that does not fit."""

import dataclasses

import jax
import pytest
from helpers import small_models

from dist_jax import config
from dist_jax.cost import backbone_table
from dist_jax.cost.chips import TpuSlice, parse_slice
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.weights import clip

B16, SIGLIP2 = "openai/clip-vit-base-patch16", "google/siglip2-base-patch16-224"


def setups(*names: str, num_devices: int = 1, **changes: object):
    """Setups of the default configuration with changed settings; `mesh__tensor` means mesh.tensor."""
    settings = config.defaults()
    settings.batch_size = 8
    settings.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    mesh = make_mesh(settings.mesh, jax.devices()[:num_devices])
    return backbone_table.setups(settings, names, mesh)


def test_patches_resolution_and_blocks_are_those_of_the_backbone():
    so400m, pe = setups("google/siglip2-so400m-patch14-384", "timm/PE-Core-L-14-336")
    assert [(setup.model.backbone.resolution, len(setup.model.dist.layers)) for setup in (so400m, pe)] == [
        (378, 27),  # 27 whole patches of 14 pixels
        (336, 24),
    ]


def test_the_resolution_of_the_configuration_replaces_that_of_the_backbone():
    (setup,) = setups(B16, data__resolution=256)
    assert backbone_table.sizes(setup)[:2] == ["256", "257"]


@pytest.mark.parametrize("changes", [{}, {"backbone__dtype": "bfloat16"}, {"backbone__quantize": "int8"}])
def test_parameters_and_operations_are_the_published_ones(changes):
    (setup,) = setups(B16, **changes)
    # 86.2 M: timm's vit_base_patch16_clip_224.openai. 161.0 G multiply-adds: tests/cost/test_run_network.py.
    assert backbone_table.sizes(setup) == ["224", "197", "86.2", "322"]


@pytest.mark.parametrize(("names", "message"), [
    ([], "--backbones=: must be names of backbones, separated by commas"),
    ([B16, ""], f"--backbones={B16},: must be names of backbones"),
    ([B16, SIGLIP2, B16], f"--backbones: {B16} is given several times; remove all but one"),
    ([B16, "some/clip"], "backbone.weights=some/clip: its sizes are not known; use a local copy"),
    (["no/such/folder"], "backbone.weights=no/such/folder: no such file or directory"),
])  # fmt: skip
def test_bad_names_are_refused(names, message):
    with pytest.raises(UserError, match=f"^{message}"):
        setups(*names)


def test_a_backbone_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"is not divisible by mesh\.tensor=8"):
        setups(B16, num_devices=8, mesh__tensor=8)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_step_that_does_not_fit_says_so_in_its_row(tmp_path):
    clip.save_huggingface(small_models.clip_model(), tmp_path)
    small = {"num_frames": 4, "integration_width": 64, "num_pooling_layers": 1}
    found = setups(str(tmp_path), **{f"model__{name}": value for name, value in small.items()})
    v5e = parse_slice("v5e-1")
    tiny = TpuSlice(dataclasses.replace(v5e.chip, memory=2**10), v5e.topology)
    header, rule, row, caption = backbone_table.lines(found, tiny)
    assert {line.count("|") for line in (header, rule, row)} == {9}
    assert [cell.strip() for cell in header.split("|")[1:3]] == ["backbone", "pixels"]
    assert [cell.strip() for cell in row.split("|")[1:4]] == [str(tmp_path), "8", "5"]
    assert "| batch_size=8 does not fit into the 0.00 GiB of a v5e chip: 0." in row
    assert "GFLOPs" in caption
