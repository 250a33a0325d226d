"""A contact sheet of exactly what the network sees: the first thing to look at for a new data set.

    python -m dist_jax.show_clips --config=configs/NAME.py --split=train --count=8 --output=clips.png [--npz=clips.npz]

Training clips come out of the very pipeline and step functions of a run: after augmentation and mixing, with the shares
of their classes. Validation clips are the views of the first videos.
"""

import itertools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from dist_jax import experiment
from dist_jax.command_line import parse_flags, read_config
from dist_jax.config import mix_group
from dist_jax.data import pipeline, sources
from dist_jax.data.source import Source
from dist_jax.distributed import sharding
from dist_jax.errors import UserError, exit_with_message
from dist_jax.models.preprocess import MEAN, STD, normalize
from dist_jax.models.video_model import VideoModel
from dist_jax.predict import montage
from dist_jax.training import augment, mixing
from dist_jax.training.losses import smooth_labels

EXAMPLE = "--config=configs/demo.py --split=train --output=clips.png"
FRAMES = 8  # of a clip on the sheet, at most


class Shown(NamedTuple):
    """Clips as they enter the network."""

    video: np.ndarray  # float32 [n, T, H, W, 3], normalised; n clips, or the V * crops views of each video side by side
    targets: np.ndarray  # float32 [n, K], shares of the classes
    record: np.ndarray  # int64 [n], number in the source; of a mixed clip, its own
    id: np.ndarray  # bytes [n], name of the clip


def main() -> None:
    """Runs the program."""
    args, config = _arguments()
    built = experiment.build(config, sharding.make_mesh(config.mesh))
    source = sources.open_source(config.data, args.split)
    if args.split == "train":
        experiment.check_flips(config, built.classes)
        shown = training_clips(built.config, built.model, source, args.step, args.count)
    else:
        shown = validation_clips(built.config, built.model, source, args.count)
    draw_sheet(shown, built.classes, args.output)
    print(f"{len(shown.video)} clips of {args.split} in {args.output}")
    if args.npz:
        try:
            np.savez_compressed(args.npz, **shown._asdict(), classes=np.array(built.classes))
        except OSError as error:
            raise UserError(f"--npz={args.npz}: {error}") from error


def training_clips(
    config: ml_collections.FrozenConfigDict, model: VideoModel, source: Source, step: int, count: int
) -> Shown:
    """The first `count` clips of the batch of `step`, mixed as in training: their partners are read too."""
    resolution, count = model.vision.resolution, min(count, config.batch_size)
    partners = mixing.partners(mix_group(config))
    pairs = -(-count // partners)
    places = slice(0, pairs * partners)
    rows = mixing.order(config.batch_size, mix_group(config))[places]
    batch = next(pipeline.train_batches(config, source, step, rows, resolution))
    draws = augment.draw(config, resolution, jnp.asarray(step))
    draws = draws._replace(
        gray=draws.gray[places], jitter=draws.jitter[places], mix=jax.tree.map(lambda x: x[:pairs], draws.mix)
    )
    video, label = (jnp.asarray(batch[name]) for name in ("video", "label"))
    video, targets = augment.network_inputs(config, model.dtype, video, label, source.classes, draws)
    return Shown(_float32(video)[:count], np.asarray(targets)[:count], batch["record"][:count], _names(batch)[:count])


def validation_clips(config: ml_collections.FrozenConfigDict, model: VideoModel, source: Source, count: int) -> Shown:
    """All views and crops of the first `count` videos; padding and bad records are left out."""
    batches = pipeline.eval_batches(config, source, slice(None), model.vision.resolution)
    needed = itertools.islice(batches, -(-count // config.eval.batch_size))
    parts = [{name: array[batch["mask"] > 0] for name, array in batch.items()} for batch in needed]
    batch = {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
    views = batch["video"].shape[1]  # V * crops
    video = normalize(jnp.asarray(batch["video"].reshape(-1, *batch["video"].shape[2:])), model.dtype)
    targets = smooth_labels(jnp.asarray(batch["label"]), source.classes, 0.0)
    rows = np.repeat(np.arange(len(batch["label"])), views)
    return Shown(_float32(video), np.asarray(targets)[rows], batch["record"][rows], _names(batch)[rows])


def pixels(video: np.ndarray) -> np.ndarray:
    """Normalised clips [..., 3] -> uint8 pixels."""
    return np.clip(np.round((video * np.float32(STD) + np.float32(MEAN)) * 255), 0, 255).astype(np.uint8)


def label_line(targets: np.ndarray, classes: Sequence[str]) -> str:
    """The classes with more than the smoothing's share of the target [K], largest first: "jump 70% + run 30%"."""
    order = np.argsort(-targets, kind="stable")
    named = [k for k in order if targets[k] > targets.min() + 0.005] or order[:1]
    return " + ".join(f"{classes[k]} {targets[k]:.0%}" for k in named)


def draw_sheet(shown: Shown, classes: Sequence[str], path: str) -> None:
    """Writes one line a clip: up to FRAMES of its frames, evenly taken, under its name and classes."""
    from matplotlib.figure import Figure  # here, because the npz alone does not need it

    frames = shown.video.shape[1]
    chosen = np.linspace(0, frames - 1, min(FRAMES, frames)).round().astype(int)
    figure = Figure(figsize=(1.5 * len(chosen), 1.8 * len(shown.video)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(shown.video)))
    for axis, clip, targets, name in zip(axes, shown.video, shown.targets, shown.id, strict=True):
        axis.imshow(montage(pixels(clip[chosen])[None]))
        title = f"{name.decode(errors='replace')}: {label_line(targets, classes)}"
        axis.set_title(title, loc="left", fontsize=8, parse_math=False)
        axis.axis("off")
    try:
        figure.savefig(path, dpi=110)
    except (ValueError, OSError) as error:
        raise UserError(f"--output={path}: {error}") from error


def _float32(video: jax.Array) -> np.ndarray:
    return np.asarray(video.astype(jnp.float32))


def _names(batch: pipeline.Batch) -> np.ndarray:
    return batch["id"].astype(np.bytes_)  # of fixed length: an array of objects would be pickled


def _arguments() -> tuple[flags.FlagValues, ml_collections.ConfigDict]:
    """The command line and the validated configuration; main.py's flags are absl's global ones, these are not."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "Configuration.", lock_config=True, flag_values=values)
    flags.DEFINE_enum("split", "train", ["train", "val"], "Which clips.", flag_values=values)
    flags.DEFINE_integer("count", 8, "How many clips, of val how many videos.", 1, flag_values=values)
    flags.DEFINE_integer("step", 0, "Optimizer step whose batch is shown (train).", 0, flag_values=values)
    flags.DEFINE_string("output", "clips.png", "Picture to write.", flag_values=values)
    flags.DEFINE_string("npz", "", "File for the arrays: video, targets, record, id, classes.", flag_values=values)
    rest = parse_flags(values, sys.argv)
    if len(rest) > 1:
        raise UserError(f"unexpected arguments {' '.join(rest[1:])}; for example {EXAMPLE}")
    return values, read_config(values, EXAMPLE)


if __name__ == "__main__":
    exit_with_message(main)
