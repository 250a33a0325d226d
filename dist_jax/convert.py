"""Makes one self-contained model directory of a trained model, or a checkpoint for the published PyTorch code.

python -m dist_jax.convert --input WORKDIR --output model
python -m dist_jax.convert --input k400.pyth --clip openai/clip-vit-base-patch16 --labels k400.txt --output model
python -m dist_jax.convert --input model --to pytorch --output model.pyth
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dist_jax import class_names
from dist_jax.errors import UserError, exit_with_message
from dist_jax.text import tokenizer
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, model_directory, table
from dist_jax.weights.checkpoint_files import to_torch
from dist_jax.weights.model_directory import Model
from dist_jax.weights.model_files import KINDS, read_model


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    args = _arguments().parse_args(argv)
    if args.use_clip and not args.clip:
        raise UserError(f"--use-clip {args.use_clip} chooses between two CLIPs; name the other one with --clip")
    tokens = str(tokenizer.locate(args.tokenizer)) if args.tokenizer else None
    model = read_model(args.input, clip=args.clip, use_clip=args.use_clip, selected=args.selected)
    if args.to == "pytorch":
        write_pytorch(args.output, model)
    else:
        clip = dataclasses.replace(model.clip, tokenizer=tokens or model.clip.tokenizer)
        model = dataclasses.replace(model, clip=clip)
        names = tuple(class_names.read(Path(args.labels))) if args.labels else model.classes
        model = with_classes(model, names, renew=bool(args.labels or args.clip or args.tokenizer))
        model_directory.write(args.output, model)
    print(f"wrote {args.output}: {describe(model)}")


def with_classes(model: Model, names: tuple[str, ...], renew: bool = True) -> Model:
    """The model with these classes and their text features, encoded anew if they are unknown or if `renew` says so."""
    if not names:
        return dataclasses.replace(model, classes=(), text_features=None)
    features = model.text_features
    if features is None or renew:
        features = np.asarray(model.clip.encode_texts(names))  # taken as they are, as in training
    return dataclasses.replace(model, classes=names, text_features=features)


def write_pytorch(path: str | Path, model: Model) -> None:
    """Writes {"model_state": ...} with the published names, whole or not at all.

    Raises:
        UserError: without PyTorch, without a text tower, if the file exists, or for a CLIP that it cannot express.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("--to pytorch writes with PyTorch, which is not installed: pip install torch") from error
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; give another --output")
    if model.clip.text is None:
        raise UserError(f"the published model has a text tower, {model.clip.name} has none; give a complete --clip")
    tensors = dist_official.to_published(model.dist_params, clip_weights.to_openai(model.clip))
    state = {name: to_torch(tensor) for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save({"model_state": state}, unfinished)
    unfinished.replace(path)


def describe(model: Model) -> str:
    """One line: sizes, frames, classes."""
    d, clip = model.dist, model.clip
    count = sum(math.prod(leaf.shape) for leaf in table.flatten(model.dist_params).values())
    return (
        f"DiST of {count / 1e6:.1f} M parameters, {d.sparse_frames}+{d.num_frames} frames of {clip.vision.resolution} "
        f"pixels, reading {len(d.layers)} of {clip.vision.num_layers} blocks of {clip.name}; "
        f"{f'{len(model.classes)} classes' if model.classes else 'no class names'}, "
        f"{'with' if clip.tokenizer else 'without'} tokenizer"
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help=KINDS)
    parser.add_argument("--output", required=True, help="model directory (or .pyth file) to write; must not exist")
    parser.add_argument("--to", choices=("directory", "pytorch"), default="directory", help="what to write")
    parser.add_argument(
        "--clip", default="", help="CLIP weights: hub id, Hugging Face directory, OpenAI .pt, open_clip directory"
    )
    parser.add_argument(
        "--use-clip", choices=("given", "inside"), default="", help="which CLIP, where --clip and --input's own differ"
    )
    parser.add_argument(
        "--selected", type=_numbers, help="CLIP blocks that a published network reads, counted from 0, e.g. 1,3"
    )
    parser.add_argument("--labels", default="", help="file of class names, one a line, in the order of their numbers")
    parser.add_argument("--tokenizer", default="", help="CLIP's tokenizer: directory or hub id")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if any(number < 0 for number in numbers) or list(numbers) != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"{text}: wanted increasing block numbers from 0, e.g. 1,3")
    return numbers


if __name__ == "__main__":
    exit_with_message(main)
