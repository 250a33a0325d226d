"""The code of docs/extending.md runs."""

import re
from pathlib import Path

import pytest

from dist_jax.data.sources import SOURCES
from dist_jax.distributed import sharding
from dist_jax.evaluation.metrics import METRICS
from dist_jax.exporting.formats import FORMATS
from dist_jax.models.networks import NETWORKS
from dist_jax.weights.backbones import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def restored_tables():
    """Restores the registries that the page extends."""
    tables_before = [(table, dict(table)) for table in (SOURCES, METRICS, NETWORKS, FORMATS, KINDS)]
    yield
    for table, entries in tables_before:
        table.clear()
        table.update(entries)


@pytest.mark.slow
@pytest.mark.usefixtures("restored_tables")
def test_all_code_blocks_of_the_page_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sharding, "PARTITIONS", sharding.PARTITIONS)
    namespace = {"__name__": "extending"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        file = re.match(r"# file: (\S+)\n", block)
        if file:
            Path(file[1]).write_text(block)
        else:
            exec(compile(block, str(PAGE), "exec"), namespace)  # noqa: S102 (our own page)
