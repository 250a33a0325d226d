"""Exports a trained model, or plain CLIP, as an artefact that runs without dist_jax.

    python -m dist_jax.export --model M --format stablehlo|savedmodel|onnx --output DIR [--label-key verb]
        [--labels "a,b,c" | --labels labels.txt]

Input: clips, pixels 0..255, uint8 [B, T, H, W, 3]. Outputs: probabilities float32 [B, K], and embeddings of unit
length, float32 [B, E] (a probe has none). DIR also contains metadata.json (shapes, preprocessing, versions) and
labels.txt (class names). docs/export.md shows how to load each format.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

import dist_jax
from dist_jax.errors import exit_with_message
from dist_jax.exporting import formats
from dist_jax.files import check_new_folder, user_path
from dist_jax.inference.class_choice import choose_classes


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments `argv`; default: those of the process."""
    args = _parser().parse_args(argv)
    output = Path(args.output)
    check_new_folder(output)
    jax.config.update("jax_platforms", "cpu")  # an export needs no accelerator, and theirs may be in use
    model = dist_jax.load(args.model, label=args.label_key)
    names, text_features = choose_classes(model, args.model, args.labels)
    formats.write(output, args.format, model, names, text_features)
    clips = f"clips of {model.num_frames} frames of {model.resolution} pixels"
    print(f"wrote {output}: {args.format}, {clips}, {len(names)} classes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=user_path, required=True, help="as for dist_jax.predict")
    parser.add_argument("--format", choices=tuple(formats.FORMATS), required=True, help="format of the artefact")
    parser.add_argument("--output", type=user_path, required=True, help="directory to write; must not exist")
    parser.add_argument(
        "--labels", type=user_path, help="other classes: names separated by commas, or a file with one name per line"
    )
    parser.add_argument("--label-key", default="", help="label of a workdir with several labels, e.g. verb")
    return parser


if __name__ == "__main__":
    exit_with_message(main)
