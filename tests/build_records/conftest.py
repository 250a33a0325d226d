"""Writes annotation files."""

import pytest


@pytest.fixture
def write_files(tmp_path):
    """A function that writes files {path: text} into a folder and returns the folder."""

    def write(files, folder="annotations"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for path, text in files.items():
            (tmp_path / folder / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / path).write_text(text)
        return str(tmp_path / folder)

    return write
