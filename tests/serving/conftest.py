"""One web server for all tests of this folder that need one."""

import pytest
from helpers import small_models, web_server


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model directory with three classes and two views per video."""
    protocol = small_models.eval_protocol(num_views=2)
    return web_server.write_model(tmp_path_factory.mktemp("web_model"), eval_protocol=protocol)


@pytest.fixture(scope="session")
def server(tmp_path_factory, model_folder):
    """A running server for files of at most 0.1 MB, 10 s, and 12 requests at the same time.

    At the end, it gets SIGTERM in the middle of an upload. It must exit with status 0 and leave no file.
    """
    limits = ["--max-upload-mb=0.1", "--max-duration=10", "--max-queue=12", "--max-batch=4"]
    with web_server.web_server(tmp_path_factory.mktemp("web_server"), model_folder, *limits) as server:
        yield server
        body, headers = web_server.encode_form(bytes(1000))
        with server.begin("/api/classify", body[:200], len(body), headers):
            server.wait_until(server.uploads)
            assert server.stop() == 0
        assert list(server.folder.iterdir()) == []
