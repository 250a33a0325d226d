"""One web server for all tests of this folder that need one."""

import pytest
from helpers import web_server


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model directory with three classes and one view per video."""
    return web_server.write_model(tmp_path_factory.mktemp("web_model"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, model_folder):
    """A running server for files of at most 0.1 MB, 10 s, and 12 requests at the same time."""
    limits = ["--max-upload-mb=0.1", "--max-duration=10", "--max-queue=12", "--max-batch=4"]
    with web_server.web_server(tmp_path_factory.mktemp("web_server"), model_folder, *limits) as server:
        yield server
