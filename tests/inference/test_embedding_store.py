"""Tests of folders of embeddings: saving, resuming after a kill at any point, refusals."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_jax.errors import UserError
from dist_jax.inference import embedding_store
from dist_jax.inference.embedding_store import Embeddings, EmbeddingStore, Span

SETTINGS = {"model": "m", "fingerprint": "f", "embed_dim": 2, "window_s": None}
A, B = Embeddings([Span("a", 0, 1.5)], np.float32([[1, 0]])), Embeddings([Span("b", 0, 1)], np.float32([[0, 1]]))
C, D = (Embeddings([Span(name, 0, 1)], np.float32([[0, 1]])) for name in "cd")


def saved(folder):
    """A store with a finished job (a) and a part (b)."""
    store = EmbeddingStore(str(folder), SETTINGS)
    store.add(A)
    store.finish()
    store.add(B)
    return store


def assert_has_a_and_b(folder):
    spans, vectors = embedding_store.read(str(folder))
    assert spans == [*A.spans, *B.spans]
    np.testing.assert_array_equal(vectors, np.eye(2))


def test_parts_are_saved_and_joined(tmp_path):
    store = saved(tmp_path / "new" / "e")
    assert store.finished == {"a", "b"}
    assert_has_a_and_b(tmp_path / "new" / "e")
    assert store.finish() == 2
    assert_has_a_and_b(tmp_path / "new" / "e")
    assert {file.name for file in (tmp_path / "new" / "e").iterdir()} == {
        "embeddings.csv",
        "embeddings.safetensors",
        "settings.json",
    }
    table = (tmp_path / "new" / "e" / "embeddings.csv").read_text()
    assert table == '"path","start_s","end_s"\n"a",0.0,1.5\n"b",0.0,1.0\n'
    assert EmbeddingStore(str(tmp_path / "new" / "e"), SETTINGS).finished == {"a", "b"}


def test_a_table_without_vectors_is_an_unfinished_save(tmp_path):
    saved(tmp_path)
    (tmp_path / "parts" / "00000.safetensors").unlink()  # killed before the vectors were written
    store = EmbeddingStore(str(tmp_path), SETTINGS)
    assert store.finished == {"a"}
    store.add(B)
    assert_has_a_and_b(tmp_path)


def test_a_kill_between_the_joined_table_and_its_vectors_loses_nothing(tmp_path):
    store = saved(tmp_path)
    old = (tmp_path / "embeddings.safetensors").read_bytes()
    part = {name: (tmp_path / "parts" / name).read_bytes() for name in ("00000.csv", "00000.safetensors")}
    store.finish()
    (tmp_path / "embeddings.safetensors").write_bytes(old)
    (tmp_path / "parts").mkdir()
    for name, data in part.items():
        (tmp_path / "parts" / name).write_bytes(data)
    assert_has_a_and_b(tmp_path)


def test_a_kill_before_the_parts_are_deleted_duplicates_nothing(tmp_path):
    store = saved(tmp_path)
    part = {name: (tmp_path / "parts" / name).read_bytes() for name in ("00000.csv", "00000.safetensors")}
    store.finish()
    (tmp_path / "parts").mkdir()
    for name, data in part.items():
        (tmp_path / "parts" / name).write_bytes(data)
    assert_has_a_and_b(tmp_path)
    assert EmbeddingStore(str(tmp_path), SETTINGS).finish() == 2


@pytest.mark.parametrize("num_deleted", range(5))
def test_a_kill_while_the_parts_are_deleted_loses_nothing(tmp_path, monkeypatch, num_deleted):
    store, deleted, unlink = saved(tmp_path), [], Path.unlink
    store.add(C)

    def killed(file):
        if len(deleted) == num_deleted:
            raise KeyboardInterrupt
        deleted.append(file)
        unlink(file)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        store.finish()
    assert [span.path for span in embedding_store.read(str(tmp_path)).spans] == ["a", "b", "c"]
    resumed = EmbeddingStore(str(tmp_path), SETTINGS)
    assert resumed.finished == {"a", "b", "c"}
    resumed.add(D)
    assert resumed.finish() == 4
    assert not (tmp_path / "parts").exists()


def test_a_part_without_a_table_is_not_read(tmp_path):
    saved(tmp_path)
    (tmp_path / "parts" / "00000.csv").unlink()
    assert embedding_store.read(str(tmp_path)).spans == A.spans
    store = EmbeddingStore(str(tmp_path), SETTINGS)
    store.add(B)
    assert store.finish() == 2


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), unique=True))
def test_any_path_is_read_back(tmp_path_factory, paths):
    folder = str(tmp_path_factory.mktemp("store"))
    store = EmbeddingStore(folder, SETTINGS)
    vectors = np.random.default_rng(0).random((len(paths), 2), np.float32)
    store.add(Embeddings([Span(path, 0.001, 12345.678) for path in paths], vectors))
    store.finish()
    spans, read = embedding_store.read(folder)
    assert [span.path for span in spans] == paths
    assert all(span[1:] == (0.001, 12345.678) for span in spans)
    np.testing.assert_array_equal(read, vectors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "g"}, r"has embeddings of another model \(m\); use another --output"),
        ({"window_s": 5.0}, "has embeddings with window_s None instead of 5.0; use another --output or these"),
    ],
)
def test_other_settings_are_refused(tmp_path, changes, message):
    saved(tmp_path)
    with pytest.raises(UserError, match=message):
        EmbeddingStore(str(tmp_path), SETTINGS | changes)


def test_the_same_model_may_have_moved(tmp_path):
    saved(tmp_path)
    assert EmbeddingStore(str(tmp_path), SETTINGS | {"model": "elsewhere"}).finished == {"a", "b"}


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"exists and has no settings\.json"):
        EmbeddingStore(str(tmp_path), SETTINGS)
    with pytest.raises(UserError, match=r"has no settings\.json; make the embeddings with"):
        embedding_store.read(str(tmp_path))


def test_an_edited_table_is_refused(tmp_path):
    saved(tmp_path).finish()
    table = tmp_path / "embeddings.csv"
    lines = table.read_text().splitlines()
    for edited in ([lines[0], lines[2], lines[1]], lines[:2], [*lines[:2], "b;0;1"]):
        table.write_text("\n".join(edited) + "\n")
        with pytest.raises(UserError, match=r"embeddings\.csv (was changed|is not a table)"):
            embedding_store.read(str(tmp_path))


def test_damaged_files_raise_an_error(tmp_path):
    saved(tmp_path)
    (tmp_path / "parts" / "00000.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"00000\.safetensors: damaged"):
        embedding_store.read(str(tmp_path))
    (tmp_path / "settings.json").write_text(json.dumps({"format": "dist_jax embeddings 9"}))
    with pytest.raises(UserError, match="has format 'dist_jax embeddings 9'"):
        embedding_store.read_settings(str(tmp_path))
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(UserError, match="does not contain the settings"):
        embedding_store.read_settings(str(tmp_path))
