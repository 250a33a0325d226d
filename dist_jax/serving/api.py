"""HTTP routes: the JSON API, and the same answers as HTML fragments for the page."""

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dist_jax.errors import UserError, one_line
from dist_jax.serving import answers, fragments
from dist_jax.serving.answers import Upload
from dist_jax.serving.classifier import ServedModel
from dist_jax.serving.jobs import JobQueue, Stopped
from dist_jax.serving.limits import RETRY_AFTER_S, RequestError
from dist_jax.serving.uploads import discard_body, receive_upload

Answer = Callable[[ServedModel, Upload, threading.Event], dict]
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The handlers of all routes.

    Args:
        model: that classifies.
        model_name: for clients.
        jobs: runs the requests.
        folder: of temporary files.
    """

    def __init__(self, model: ServedModel, model_name: str, jobs: JobQueue, folder: str) -> None:
        self._model, self._jobs, self._folder = model, jobs, folder
        self._facts = answers.model_facts(model, model_name)

    def routes(self) -> list[BaseRoute]:
        """All routes under /api and /page."""
        classify = partial(self._answer, answers.classification, answers.CLASSIFY_FIELDS)
        timeline = partial(self._answer, answers.timeline, answers.TIMELINE_FIELDS)
        every_method = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        return [
            Route("/api/model", self._describe_model, methods=["GET"]),
            Route("/api/classify", _as_handler(classify, JSONResponse), methods=["POST"]),
            Route("/api/timeline", _as_handler(timeline, JSONResponse), methods=["POST"]),
            Route("/page/classify", _as_handler(classify, _html(fragments.classification)), methods=["POST"]),
            Route("/page/timeline", _as_handler(timeline, _html(fragments.timeline)), methods=["POST"]),
            Route("/api/{path:path}", _unknown, methods=every_method),
            Route("/page/{path:path}", _unknown, methods=every_method),
        ]

    async def _describe_model(self, request: Request) -> Response:
        return JSONResponse(self._facts)

    async def _answer(self, answer: Answer, fields: Sequence[str], request: Request) -> dict:
        with self._jobs.admit():
            async with receive_upload(request, self._folder, self._model.limits, fields) as upload:
                job = self._jobs.run(partial(answer, self._model, upload), is_timeline=answer is answers.timeline)
                try:
                    return await _unless_disconnected(request, job)
                except UserError as error:  # the client knows the file by its own name
                    status = error.status if isinstance(error, RequestError) else 400
                    raise RequestError(status, str(error).replace(upload.path, upload.name)) from error


def error_response(error: Exception) -> Response:
    """One line of JSON with the status of an error. Prints a traceback of errors that are not the client's."""
    headers = {}
    if isinstance(error, (ClientDisconnect, Stopped)):
        return Response(status_code=499)  # nobody reads it
    if isinstance(error, UserError):
        status, message = error.status if isinstance(error, RequestError) else 400, one_line(str(error))
    else:
        traceback.print_exception(error)
        status, message = 500, "internal error; the log of the server has the details"
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse({"error": message}, status, headers)


def _as_handler(answer: Callable[[Request], Awaitable[dict]], respond: Callable[[dict], Response]) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            return respond(await answer(request))
        except Exception as error:
            await discard_body(request)
            return error_response(error)

    return handle


def _html(fragment: Callable[[dict], str]) -> Callable[[dict], Response]:
    return lambda answer: HTMLResponse(fragment(answer))


async def _unknown(request: Request) -> Response:
    path, method = one_line(request.url.path)[:100], request.method
    known = "GET /api/model, POST /api/classify, POST /api/timeline"
    return JSONResponse({"error": f"no {method} {path}; there are {known}"}, 404)


async def _unless_disconnected(request: Request, job: Awaitable[dict]) -> dict:
    """Runs a job; cancels it if the client closes the connection, and then raises ClientDisconnect."""
    running = asyncio.ensure_future(job)
    disconnected = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait((running, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise ClientDisconnect
    finally:
        disconnected.cancel()
        if not running.done():
            running.cancel()
            await asyncio.wait((running,))


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
