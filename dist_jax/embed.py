"""Embeds the videos of a folder, and searches them by text or by a video.

    python -m dist_jax.embed --model M --videos DIR --output E [--window 10s --hop 5s] [--save-every 100]
        [--no-square-pixels]
    python -m dist_jax.embed --search E --query "a dog jumps" [--top 10] [--sheet out.png] [--model M]
    python -m dist_jax.embed --search E --query video.mp4

E has embeddings.safetensors (unit vectors, float32 [R, E]) and embeddings.csv (path and times of each vector): one per
video, or one per window. A job that was stopped continues with the same command, which also adds new videos. Unreadable
videos are listed at the end; the exit status is then 1. A search uses the model of E; --model is its new path.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np

import dist_jax
from dist_jax import compilation_cache
from dist_jax.errors import UserError, exit_with_message, one_line, warn
from dist_jax.files import is_folder, is_remote, is_utf8, user_path, walk_files
from dist_jax.inference import embedding_store
from dist_jax.inference.contact_sheet import draw_sheet, format_span, read_strip
from dist_jax.inference.embedding_store import EmbeddingStore
from dist_jax.inference.embeddings import Match, Windows, embed_span, embed_videos, search, split
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.times import parse_time
from dist_jax.video import decoding
from dist_jax.video.decoding import VideoError
from dist_jax.video.suffixes import has_video_suffix


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments `argv`; default: those of the process."""
    args = _parser().parse_args(argv)
    _check_options(args)
    if args.search:
        run_search(args)
    else:
        run_embedding(args)


def run_embedding(args: argparse.Namespace) -> None:
    """Embeds a folder. Raises UserError at the end if videos could not be read."""
    windows = read_windows(args.window, args.hop)
    paths, unreadable = find_videos(args.videos)
    model = load_model(args.model)
    settings = {
        "model": _full_path(args.model),
        "fingerprint": model.fingerprint,
        "embed_dim": model.embed_dim,
        "videos": _full_folder(args.videos),
        "window_s": windows.window_s,
        "hop_s": windows.hop_s,
        "square_pixels": args.square_pixels,
    }
    store = EmbeddingStore(args.output, settings)
    unreadable += embed_videos(model, args.videos, paths, windows, args.square_pixels, store, args.save_every)
    num_vectors = store.finish()
    print(f"{args.output}: {num_vectors:,} vectors of {len(store.finished):,} videos")
    for message in unreadable:
        print(one_line(message), file=sys.stderr)
    if unreadable:
        raise UserError(f"{len(unreadable)} videos could not be read (listed above); the others are in {args.output}")


def run_search(args: argparse.Namespace) -> None:
    """Prints the best matches, and draws them. Raises UserError at the end if frames could not be read."""
    settings = embedding_store.read_settings(args.search)
    embeddings = embedding_store.read(args.search)
    if not embeddings.spans:
        raise UserError(f"{args.search} has no vectors yet; finish the embedding")
    if os.path.isdir(os.path.join(args.search, embedding_store.PARTS)):
        warn(f"{args.search} is unfinished: searching {len(embeddings.spans):,} vectors")
    model = load_model(args.model or settings["model"])
    if model.fingerprint != settings["fingerprint"]:
        raise UserError(
            f"{args.model or settings['model']} is not the model that made {args.search}, {settings['model']}, or it "
            "has changed; set its path with --model, or embed the videos again"
        )
    query = encode_query(model, args.query, settings["square_pixels"])
    matches = search(embeddings, query, args.top)
    for number, match in enumerate(matches, start=1):
        print(f"{number:>4}  {match.similarity:6.3f}  {format_span(match):>17}  {one_line(match.span.path)}")
    if args.sheet:
        write_sheet(args.query, matches, settings, args.sheet)


def encode_query(model: Predictor, query: str, square_pixels: bool) -> np.ndarray:
    """The unit vector of a text, or of a video if `query` is a file or has the suffix of one: float32 [E].

    A text gets the prompt templates of the training, as a class name does.
    """
    if os.path.isfile(query) or has_video_suffix(query):
        (window,) = split(decoding.probe(query), Windows())
        return embed_span(model, query, window, square_pixels)
    return np.asarray(model.encode_classes([query]))[0]


def write_sheet(query: str, matches: Sequence[Match], settings: dict, path: str) -> None:
    """Draws the readable matches. Then raises UserError if some matches cannot be read."""
    drawn, strips, errors = [], [], []
    for match in matches:
        video = os.path.join(settings["videos"], match.span.path)
        try:
            strips.append(read_strip(video, match.span.start_s, match.span.end_s, settings["square_pixels"]))
            drawn.append(match)
        except VideoError as error:
            errors.append(str(error))
    if drawn:
        draw_sheet(query, drawn, strips, path)
    if errors:
        raise UserError(f"--sheet: {len(errors)} of {len(matches)} videos could not be read: {'; '.join(errors)}")


def find_videos(folder: str) -> tuple[list[str], list[str]]:
    """Sorted paths of the videos in a folder and its subfolders, by their suffix, and messages of unreadable ones.

    Hidden files and files with other suffixes are counted in a warning.

    Raises:
        UserError: no such folder, or no videos in it.
    """
    if not is_folder(folder):
        raise UserError(f"{folder}: no such folder; set the folder of the videos with --videos")
    paths, unreadable, num_others = [], [], 0
    for file in walk_files(folder, has_video_suffix):
        is_hidden = any(part.startswith(".") for part in file.path.split("/"))
        if is_hidden or not has_video_suffix(file.path):
            num_others += 1
        elif file.problem or not is_utf8(file.path):
            unreadable.append(f"{file.path}: {file.problem or 'its name is not UTF-8; rename it'}")
        else:
            paths.append(file.path)
    if not paths:
        raise UserError(f"{folder}: no videos (.mp4, .avi, .mkv, ...); it has {num_others} other files")
    if num_others:
        warn(f"{folder}: skipped {num_others} hidden files or files without the suffix of a video")
    return sorted(paths), unreadable


def load_model(path: str) -> Predictor:
    """Loads a model with video embeddings. Raises UserError if it has none, or see `dist_jax.load`."""
    model = dist_jax.load(path)
    if model.has_own_classes:
        raise UserError(f"{path} has its own classifier and no video embeddings; use a DiST model or plain CLIP")
    return model


def read_windows(window: str, hop: str) -> Windows:
    """The windows of --window and --hop; empty texts: one window per video. Raises UserError for 0 or no time."""
    seconds = {"--window": window, "--hop": hop}
    values = {option: float(parse_time(option, text)) if text else None for option, text in seconds.items()}
    for option, value in values.items():
        if value == 0:
            raise UserError(f"{option} {seconds[option]}: must be above 0")
    return Windows(values["--window"], values["--hop"])


def _full_path(model: str) -> str:
    return os.path.realpath(model) if os.path.exists(model) else model  # else a hub id


def _full_folder(folder: str) -> str:
    """The folder's name from any working directory, without a slash at the end."""
    return folder.rstrip("/") if is_remote(folder) else os.path.realpath(folder)


def _check_options(args: argparse.Namespace) -> None:
    """Raises UserError for options that are missing or do not fit together."""
    embedding, searching = ["videos", "output", "window", "hop"], ["query", "sheet"]
    needed = ["query"] if args.search else ["model", "videos", "output"]
    unused = embedding if args.search else searching
    missing = [f"--{name}" for name in needed if not getattr(args, name)]
    useless = [f"--{name}" for name in unused if getattr(args, name)]
    command = "a search (--search)" if args.search else "embedding videos"
    if missing:
        raise UserError(f"{command} needs {', '.join(missing)}; see python -m dist_jax.embed --help")
    if useless:
        raise UserError(f"{command} does not use {', '.join(useless)}; remove it")
    if args.hop and not args.window:
        raise UserError("--hop is the distance between windows; set their length with --window")
    for name in ("top", "save_every"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=user_path, default="", help="as for dist_jax.predict; in a search: the model's new path"
    )
    parser.add_argument("--videos", type=user_path, default="", help="folder of the videos, with its subfolders")
    parser.add_argument("--output", type=user_path, default="", help="folder for the embeddings; may be unfinished")
    parser.add_argument("--window", default="", help="one vector per window of this length; default: per video")
    parser.add_argument("--hop", default="", help="time between the starts of windows; default: as --window")
    parser.add_argument("--save-every", type=int, default=100, help="videos between two saves; default 100")
    parser.add_argument(
        "--square-pixels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="scale the width of frames with non-square pixels, as build_records does by default",
    )
    parser.add_argument("--search", type=user_path, default="", help="folder of embeddings to search")
    parser.add_argument("--query", type=user_path, default="", help="text, or video file")
    parser.add_argument("--top", type=int, default=10, help="number of matches; default 10")
    parser.add_argument("--sheet", type=user_path, default="", help="picture of the matches (.png, .pdf, .svg)")
    return parser


if __name__ == "__main__":
    compilation_cache.enable("auto")
    exit_with_message(main)
