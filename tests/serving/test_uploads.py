"""Tests of dist_jax.serving.uploads: the limits of a body without Content-Length."""

import asyncio

import pytest

pytest.importorskip("python_multipart", reason='the server needs pip install "dist_jax[serve]"')
from starlette.requests import Request

from dist_jax.serving import uploads
from dist_jax.serving.limits import Limits, RequestError

LIMITS = Limits(max_upload_mb=0.001)
HEAD = b'--B\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
FORM = HEAD + b"content\r\n--B--\r\n"
EMPTY_PART = b'--B\r\nContent-Disposition: form-data; name="labels"\r\n\r\n\r\n'


def upload(folder, chunks):
    """Receives a body. Returns the bytes of the video."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    headers = [(b"content-type", b"multipart/form-data; boundary=B")]
    unsent = iter(messages)

    async def receive():
        return next(unsent)

    async def run():
        request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
        async with uploads.receive_upload(request, str(folder), LIMITS, ["labels"]) as form:
            with open(form.path, "rb") as file:
                return file.read()

    return asyncio.run(run())


def test_a_body_may_arrive_in_any_parts(tmp_path):
    assert upload(tmp_path, [FORM[i : i + 1] for i in range(len(FORM))]) == b"content"


@pytest.mark.parametrize(
    "chunks",
    [[b"\r\n" * 100] * 2000 + [FORM], [FORM] + [b"x" * 200] * 2000, [EMPTY_PART * 4] * 2000 + [FORM]],
    ids=["before the form", "after the form", "empty parts"],
)
def test_every_byte_of_a_body_counts(tmp_path, chunks):
    with pytest.raises(RequestError, match=r"the video is larger than 0\.001 MB") as error:
        upload(tmp_path, chunks)
    assert error.value.status == 413
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_arrives_too_slowly_is_refused(tmp_path, monkeypatch):
    """A client that sends a byte every ten seconds is never idle."""
    times = iter(range(0, 10_000, 10))
    monkeypatch.setattr(uploads, "monotonic", lambda: next(times))
    with pytest.raises(RequestError, match="the upload takes more than 31 s; send a smaller video") as error:
        upload(tmp_path, [FORM[i : i + 1] for i in range(len(FORM))])
    assert error.value.status == 408
