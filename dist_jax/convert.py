"""Converts a trained model to a self-contained model directory, or to a checkpoint for the published PyTorch code.

python -m dist_jax.convert --input WORKDIR --output model
python -m dist_jax.convert --input k400.pyth --clip openai/clip-vit-base-patch16 --labels k400.txt --output model
python -m dist_jax.convert --input model --to pytorch --output model.pyth
python -m dist_jax.convert --input WORKDIR --output model --push owner/name [--private] [--license mit]

--push also uploads the model directory to the Hugging Face hub, with a model card (README.md).
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dist_jax import class_names, hub
from dist_jax.errors import UserError, exit_with_message
from dist_jax.files import check_new_folder, user_path
from dist_jax.model_card import make_card, read_origin
from dist_jax.text import tokenizer
from dist_jax.text.prompt_templates import encode_classes
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, hub_models, model_directory, table
from dist_jax.weights.checkpoint_files import to_torch
from dist_jax.weights.model_directory import Model
from dist_jax.weights.model_files import KINDS, read_model
from dist_jax.weights.openai_sizes import ACTIVATIONS, ClipSettings

OTHER_LICENSE = "other"  # an identifier of the hub: the license is not in its list, or not stated


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments `argv`; default: those of the process."""
    args = _parser().parse_args(argv)
    _check_push(args)
    _check_output(args)
    if args.use_clip and not args.clip:
        raise UserError(f"--use-clip {args.use_clip} chooses between two CLIPs; set the second one with --clip")
    tokenizer_directory = str(tokenizer.locate(args.tokenizer)) if args.tokenizer else None
    settings = ClipSettings(args.activation, args.num_heads)
    model = read_model(
        args.input,
        clip=args.clip,
        use_clip=args.use_clip,
        layers=args.layers,
        clip_settings=settings,
        label=args.label_key,
    )
    if model.network != "dist":
        raise UserError(f"{args.input} contains the network {model.network}, but only DiST networks can be converted")
    if args.to == "pytorch":
        write_pytorch(args.output, model)
    else:
        clip_model = model.clip_model
        clip_model = dataclasses.replace(clip_model, tokenizer=tokenizer_directory or clip_model.tokenizer)
        names = tuple(class_names.read(Path(args.labels))) if args.labels else model.class_names
        recompute = bool(args.labels or args.clip or args.tokenizer)
        model = with_classes(dataclasses.replace(model, clip_model=clip_model), names, recompute)
        model_directory.write(args.output, model)
    print(f"wrote {args.output}: {describe(model)}")
    if args.push:
        card = make_card(args.push, model, read_origin(args.input), args.license)
        (Path(args.output) / hub_models.CARD).write_text(card, encoding="utf-8")
        print(f"uploaded to {hub.upload(Path(args.output), args.push, args.private)}")


def _check_push(args: argparse.Namespace) -> None:
    """Raises UserError before the conversion if the options of an upload do not fit together, or see `check_target`."""
    if not args.push:
        if args.private or args.license != OTHER_LICENSE:
            raise UserError("--private and --license describe the repository of --push; set --push, or remove them")
        return
    if args.to != "directory":
        raise UserError("--push uploads a model directory; remove --to pytorch")
    hub_models.check_target(args.push)


def _check_output(args: argparse.Namespace) -> None:
    """Raises UserError before the conversion if --output exists, or if --to pytorch has options without an effect."""
    if args.to == "directory":
        check_new_folder(Path(args.output))
        return
    if args.labels or args.tokenizer:
        raise UserError("--labels and --tokenizer are for model directories; remove them, or --to pytorch")
    if Path(args.output).exists():
        raise UserError(f"{args.output} exists; use another --output")


def with_classes(model: Model, names: tuple[str, ...], recompute: bool = True) -> Model:
    """The model with other class names and their text features.

    Args:
        model: any model with a text tower.
        names: K class names; their texts have the prompt templates of the training.
        recompute: False: keep the text features of the model, if it has any.
    """
    if not names:
        return dataclasses.replace(model, class_names=(), text_features=None)
    features = model.text_features
    if features is None or recompute:
        features = np.asarray(encode_classes(model.clip_model.encode_texts, names, model.prompt_templates))
    return dataclasses.replace(model, class_names=names, text_features=features)


def write_pytorch(path: str | Path, model: Model) -> None:
    """Writes {"model_state": ...} with the published names, atomically.

    Raises:
        UserError: PyTorch is not installed, the file exists, or the published format does not support the CLIP.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("--to pytorch needs PyTorch, which is not installed; pip install torch") from error
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; use another --output")
    if model.clip_model.text is None:
        raise UserError(
            f"the published format needs a text tower, and {model.clip_model.name} has none; use a complete --clip"
        )
    tensors = dist_official.to_published(model.dist_params, clip_weights.to_openai(model.clip_model))
    state = {name: to_torch(tensor) for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save({"model_state": state}, unfinished)
    unfinished.replace(path)


def describe(model: Model) -> str:
    """A one-line summary: sizes, frames, classes."""
    dist, clip_model = model.dist, model.clip_model
    num_params = sum(math.prod(leaf.shape) for leaf in table.flatten(model.dist_params).values())
    classes = f"{len(model.class_names)} classes" if model.class_names else "no class names"
    return (
        f"DiST with {num_params / 1e6:.1f} M parameters, {dist.num_sparse_frames}+{dist.num_frames} frames of "
        f"{clip_model.vision.resolution} pixels, reads {len(dist.layers)} of {clip_model.vision.num_layers} blocks of "
        f"{clip_model.name}; {classes}, {'with' if clip_model.tokenizer else 'without'} tokenizer"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=user_path, required=True, help=KINDS)
    parser.add_argument(
        "--output", type=user_path, required=True, help="model directory or .pyth file to write; must not exist"
    )
    parser.add_argument("--to", choices=("directory", "pytorch"), default="directory", help="output format")
    parser.add_argument(
        "--clip",
        type=user_path,
        default="",
        help="weights of CLIP or another backbone: hub id, Hugging Face directory, OpenAI .pt, open_clip directory",
    )
    parser.add_argument(
        "--use-clip",
        choices=("given", "inside"),
        default="",
        help="CLIP to use if --clip (given) and the CLIP of --input (inside) differ",
    )
    parser.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        default="",
        help="activation of CLIP, if its files do not contain it, e.g. open_clip's epoch_N.pt",
    )
    parser.add_argument(
        "--num-heads",
        type=_head_numbers,
        default=(),
        help="attention heads of CLIP's image and text tower, if its files do not contain them, e.g. 16,20",
    )
    parser.add_argument(
        "--layers",
        type=_block_numbers,
        help="backbone blocks that a published network reads, counted from 0, e.g. 1,3; default: all",
    )
    parser.add_argument(
        "--labels",
        type=user_path,
        default="",
        help="file of class names, one per line, in the order of the classes",
    )
    parser.add_argument("--label-key", default="", help="label of a workdir with several labels, e.g. verb")
    parser.add_argument("--tokenizer", type=user_path, default="", help="CLIP's tokenizer: directory or hub id")
    parser.add_argument("--push", default="", help="repository of the Hugging Face hub to upload to: owner/name")
    parser.add_argument("--private", action="store_true", help="only you can see the repository")
    parser.add_argument(
        "--license", default=OTHER_LICENSE, help="license of the weights, an identifier of the hub; default other"
    )
    return parser


def _block_numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if any(number < 0 for number in numbers) or list(numbers) != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"{text}: must be increasing block numbers from 0, e.g. 1,3")
    return numbers


def _head_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    exit_with_message(main)
