"""Receives a form with a video file: the bytes go to a temporary file as they arrive."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path, PurePath
from time import monotonic
from typing import IO, TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from dist_jax.errors import one_line
from dist_jax.serving.answers import Upload
from dist_jax.serving.limits import Limits, RequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IDLE_S = 30  # maximum time without a byte of the body, seconds
MIN_RATE = 125_000  # bytes per second: the largest allowed body has IDLE_S and the time that it takes at this rate
DISCARD_S = 2  # how long the rest of a refused body is read, so that the client sees the answer, seconds
MAX_TEXT_BYTES = 64_000  # of all text fields
FORM_BYTES = 100_000  # of a form without the file: text fields, boundaries and headers
EXAMPLE = "for example: curl -F video=@FILE URL"


@contextlib.asynccontextmanager
async def receive_upload(request: Request, folder: str, limits: Limits, fields: Sequence[str]) -> AsyncIterator[Upload]:
    """Context manager of a received form. At its end, the file is removed.

    Args:
        request: with a body in the format multipart/form-data.
        folder: of the temporary file.
        limits: of the file.
        fields: names of the allowed text fields. A repeated field gives one text with line breaks.

    Raises:
        RequestError: status 400, no valid form; 408, the client sends nothing or too slowly; 413, too large.
        ClientDisconnect: the client disconnected.
    """
    path = Path(folder) / uuid.uuid4().hex
    try:
        with path.open("xb") as file:
            form = _Form(file, limits.max_upload_bytes, fields)
            await _read_body(request, form, limits)
        yield Upload(str(path), *form.result())
    finally:
        path.unlink(missing_ok=True)


async def discard_body(request: Request) -> None:
    """Reads the rest of a body for a short time. A client that still sends does not read the answer."""
    if request.headers.get("expect", "").lower() == "100-continue":  # it waits for permission to send
        return
    with contextlib.suppress(ClientDisconnect, TimeoutError, RuntimeError):
        async with asyncio.timeout(DISCARD_S):
            async for _ in request.stream():
                pass


async def _read_body(request: Request, form: "_Form", limits: Limits) -> None:
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise RequestError(
            400, f"the body must be a form (multipart/form-data) with the file in the field video; {EXAMPLE}"
        )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > _max_body_bytes(limits):
        raise _too_large(limits.max_upload_bytes)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        async for chunk in _chunks(request, limits):
            parser.write(chunk)
    except MultipartParseError as error:
        raise RequestError(400, f"the body is not a valid multipart form; {EXAMPLE}") from error


async def _chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body in parts. Every byte counts: the parser skips bytes before, between and after the parts of a form."""
    stream, num_bytes = request.stream(), 0
    max_s = IDLE_S + _max_body_bytes(limits) / MIN_RATE
    end = monotonic() + max_s
    while (rest_s := end - monotonic()) > 0:
        try:
            async with asyncio.timeout(min(IDLE_S, rest_s)):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            if rest_s < IDLE_S:
                break
            raise RequestError(408, f"no data for {IDLE_S} s; send the video again") from error
        num_bytes += len(chunk)
        if num_bytes > _max_body_bytes(limits):
            raise _too_large(limits.max_upload_bytes)
        yield chunk
    raise RequestError(408, f"the upload takes more than {max_s:.0f} s; send a smaller video")


def _max_body_bytes(limits: Limits) -> int:
    return limits.max_upload_bytes + FORM_BYTES


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, f"the video is larger than {max_bytes / 1e6:g} MB; send a shorter or smaller one")


class _Form:
    """Receives the parts of a form from the parser."""

    def __init__(self, file: IO[bytes], max_bytes: int, fields: Sequence[str]) -> None:
        self._file, self._max_bytes, self._known = file, max_bytes, fields
        self._texts: dict[str, list[bytes]] = {}  # values of each text field
        self._file_name: str | None = None
        self._is_complete = False
        self._header, self._value, self._disposition = b"", b"", b""  # of the current part
        self._field = ""  # of the current part
        self._num_text_bytes = self._num_file_bytes = 0

    def callbacks(self) -> "MultipartCallbacks":
        """For MultipartParser."""
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }

    def result(self) -> tuple[str, dict[str, str]]:
        """Name of the file and text fields. Raises RequestError if the form has no file or is not complete."""
        if not self._is_complete:
            raise RequestError(400, "the form is not complete; send it again")
        if self._file_name is None or not self._num_file_bytes:
            raise RequestError(400, f"the field video has no file; {EXAMPLE}")
        return self._file_name, {name: "\n".join(map(_decode, values)) for name, values in self._texts.items()}

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field = _decode(options.get(b"name", b""))
        if self._field == "video":
            if self._file_name is not None:
                raise RequestError(400, "the form has several videos; send one request per video")
            name = PurePath(_decode(options.get(b"filename", b"")).replace("\\", "/")).name
            self._file_name = one_line(name)[:200] or "video"
        elif self._field in self._known:
            self._texts.setdefault(self._field, []).append(b"")
        else:
            known = ", ".join(("video", *self._known))
            raise RequestError(400, f"unknown field {one_line(self._field)[:40]!r}; the fields are {known}")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == "video":
            self._num_file_bytes += end - start
            if self._num_file_bytes > self._max_bytes:
                raise _too_large(self._max_bytes)
            self._file.write(data[start:end])
        else:
            self._num_text_bytes += end - start
            if self._num_text_bytes > MAX_TEXT_BYTES:
                raise RequestError(413, f"the text fields have more than {MAX_TEXT_BYTES // 1000} kB")
            self._texts[self._field][-1] += data[start:end]

    def _on_end(self) -> None:
        self._is_complete = True


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, "the text fields and the file name must be UTF-8") from error
