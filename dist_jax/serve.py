"""Serves a model: a web page and a JSON API that classify uploaded videos.

    python -m dist_jax.serve --model M [--label-key verb] [--host 127.0.0.1] [--port 7860] [--max-batch 8]
        [--max-upload-mb 200] [--max-duration 600] [--max-labels 100] [--max-windows 1000] [--max-queue 16]

    curl -F video=@some.mp4 -F labels="surfing, swimming" http://127.0.0.1:7860/api/classify

Requires pip install "dist_jax[serve]". The page and the API are described in docs/serve.md.
"""

import argparse
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence

import dist_jax
from dist_jax import compilation_cache
from dist_jax.errors import UserError, exit_with_message
from dist_jax.files import user_path
from dist_jax.serving.classifier import ServedModel
from dist_jax.serving.limits import Limits
from dist_jax.serving.listener import bind

PACKAGES = ("gradio", "fastapi", "starlette", "uvicorn", "python_multipart")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments `argv`; default: those of the process."""
    args = _parser().parse_args(argv)
    limits = Limits(args.max_upload_mb, args.max_duration, args.max_labels, args.max_windows, args.max_queue)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'not installed: {", ".join(missing)}; run: pip install "dist_jax[serve]"')
    with bind(args.host, args.port) as listener:  # before the model: loading takes longer
        model = dist_jax.load(args.model, label=args.label_key)
        print("compiling ...", file=sys.stderr, flush=True)
        served = ServedModel(model, limits, args.max_batch)
        _run(listener, served, _public_name(args.model))


def _run(listener: socket.socket, model: ServedModel, model_name: str) -> None:
    """Serves until SIGINT or SIGTERM. Then no temporary file is left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises the signal again after its own clean-up
    with tempfile.TemporaryDirectory(prefix="dist_jax-serve-") as folder:
        # Gradio reads both when it is imported.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": os.path.join(folder, "gradio")}
        from dist_jax.serving import server

        server.run(listener, model, model_name, folder)


def _public_name(model: str) -> str:
    """The name for clients, without the folders of this machine."""
    return os.path.basename(os.path.abspath(model)) if os.path.exists(model) else model  # else a hub id


def _parser() -> argparse.ArgumentParser:
    defaults = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=user_path, required=True, help="as for dist_jax.predict")
    parser.add_argument("--label-key", default="", help="label of a workdir with several labels, e.g. verb")
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0: all networks; default %(default)s")
    parser.add_argument("--port", type=int, default=7860, help="0: a free one; default %(default)s")
    parser.add_argument("--max-batch", type=int, default=8, help="clips per call of the device; default %(default)s")
    for option, kind, default, meaning in (
        ("--max-upload-mb", float, defaults.max_upload_mb, "size of a video, megabytes"),
        ("--max-duration", float, defaults.max_duration_s, "length of a video, seconds"),
        ("--max-labels", int, defaults.max_labels, "typed labels of a request"),
        ("--max-windows", int, defaults.max_windows, "windows of a timeline"),
        ("--max-queue", int, defaults.max_queue, "requests at the same time; further ones get status 503"),
    ):
        parser.add_argument(option, type=kind, default=default, help=f"{meaning}; default {default:g}")
    return parser


if __name__ == "__main__":
    compilation_cache.enable("auto")
    exit_with_message(main)
