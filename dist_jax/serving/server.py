"""The web application and its server."""

import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse

from dist_jax.errors import one_line
from dist_jax.serving import answers
from dist_jax.serving.api import Api
from dist_jax.serving.classifier import ServedModel
from dist_jax.serving.jobs import JobQueue
from dist_jax.serving.page import CSS, SCRIPT, build_page, theme

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SHUTDOWN_S = 5  # running requests may end, seconds
# Gradio's paths that the page needs. The others take uploads, run functions or read files.
PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
FOLDERS = ("/assets/", "/static/", "/svelte/", "/pwa_icon")
# The browser loads nothing from other hosts, and no other site shows the page in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def run(listener: socket.socket, model: ServedModel, model_name: str, folder: str) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        listener: from `listener.bind`.
        model: that classifies; it is closed at the end.
        model_name: for clients.
        folder: of temporary files; the caller removes it.
    """
    host, port = listener.getsockname()[:2]
    uploads = Path(folder) / "uploads"
    uploads.mkdir()
    with contextlib.closing(model), contextlib.closing(JobQueue(model.limits.max_queue)) as jobs:
        app = make_app(Api(model, model_name, jobs, str(uploads)), answers.model_facts(model, model_name))
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_S)
        listener.listen()  # before the message: a client may connect now
        address = f"[{host}]" if ":" in host else host
        print(f"serving {model_name} on http://{address}:{port} (Ctrl-C stops)", file=sys.stderr, flush=True)
        uvicorn.Server(config).run([listener])


def make_app(api: Api, facts: dict) -> "PageGuard":
    """The routes of the API, and the page at all other paths."""
    app = FastAPI(openapi_url=None, routes=api.routes())
    app = gradio.mount_gradio_app(
        app,
        build_page(facts),
        "/",
        theme=theme(),
        css=CSS,
        head=f"<script>{SCRIPT}</script>",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    return PageGuard(app)


class PageGuard:
    """Lets Gradio only deliver the page; all its other routes are closed. See `is_open`.

    Args:
        app: ASGI application.
    """

    def __init__(self, app: Callable) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif is_open(scope["method"], scope["path"]):
            await self._app(scope, receive, _with_headers(send))
        else:
            response = JSONResponse({"error": f"no {scope['method']} {one_line(scope['path'])[:100]}"}, 404)
            await response(scope, receive, send)


def is_open(method: str, path: str) -> bool:
    """Whether a request may reach the application: the API and the page's routes; Gradio's pages and static files."""
    if path.startswith(("/api/", "/page/")):
        return True
    return method in ("GET", "HEAD") and (path in PAGES or path.startswith(FOLDERS))


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in HEADERS.items())]
        await send(message)

    return send_with_headers
