"""Writes a contact sheet of the network's inputs, to check a new data set.

    python -m dist_jax.show_clips --config=configs/NAME.py --split=train --count=8 --output=clips.png [--npz=clips.npz]

Training clips are augmented and mixed exactly as in a run. Their titles give the weights of the mixed classes.
Validation clips are the views of the first videos.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from dist_jax.command_line import parse_flags, read_config
from dist_jax.config import mix_group
from dist_jax.data import pipeline, sources
from dist_jax.data.source import Source
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError, exit_with_message
from dist_jax.experiment import build, check_flip_labels
from dist_jax.inference.plots import montage
from dist_jax.models.backbones.base import Backbone
from dist_jax.models.video_model import VideoModel
from dist_jax.training import augment, mixing
from dist_jax.training.losses import smooth_labels

EXAMPLE = "--config=configs/demo.py --split=train --output=clips.png"
MAX_FRAMES = 8  # frames per clip on the sheet


class InputClips(NamedTuple):
    """n clips at the input of the network. All views and crops of a validation video are consecutive clips."""

    video: np.ndarray  # normalised pixels, float32 [n, T, H, W, 3]
    targets: dict[str, np.ndarray]  # class probabilities by label name, float32 [n, K]
    record: np.ndarray  # record number in the source, int64 [n]; a mixed clip has the number of its first clip
    id: np.ndarray  # clip name, bytes [n]


def main() -> None:
    """Runs the command."""
    args, config = _parse_arguments()
    experiment = build(config, make_mesh(config.mesh))
    source = sources.open_source(config.data, args.split, config.seed)
    if args.split == "train":
        check_flip_labels(config, experiment.class_names)
        clips = training_clips(experiment.config, experiment.model, source, args.step, args.count)
    else:
        clips = validation_clips(experiment.config, experiment.model, source, args.count)
    draw_sheet(clips, experiment.model.backbone, experiment.class_names, args.output)
    print(f"{len(clips.video)} clips of {args.split} in {args.output}")
    if args.npz:
        try:
            np.savez_compressed(args.npz, **arrays(clips, experiment.class_names))
        except OSError as error:
            raise UserError(f"--npz={args.npz}: {error}") from error


def training_clips(
    config: ml_collections.FrozenConfigDict, model: VideoModel, source: Source, step: int, num_clips: int
) -> InputClips:
    """The first `num_clips` clips of a step's batch, augmented and mixed as in training. Also reads their partners."""
    resolution, num_clips = model.backbone.resolution, min(num_clips, config.batch_size)
    clips_per_mix = mixing.pair_size(mix_group(config))
    num_mixes = -(-num_clips // clips_per_mix)
    positions = slice(0, num_mixes * clips_per_mix)
    rows = mixing.order(config.batch_size, mix_group(config))[positions]
    batch = next(pipeline.train_batches(config, source, step, rows, resolution))
    draws = augment.draw(config, resolution, jnp.asarray(step))
    draws = draws._replace(
        gray=draws.gray[positions],
        jitter=draws.jitter[positions],
        mix=jax.tree.map(lambda x: x[:num_mixes], draws.mix),
    )
    video, labels = jax.tree.map(jnp.asarray, (batch["video"], batch["labels"]))
    video, targets = augment.network_inputs(config, model.normalize, video, labels, source.num_classes, draws)
    clips = InputClips(_float32(video), jax.tree.map(np.asarray, targets), batch["record"], _clip_names(batch))
    return jax.tree.map(lambda array: array[:num_clips], clips)


def validation_clips(
    config: ml_collections.FrozenConfigDict, model: VideoModel, source: Source, num_videos: int
) -> InputClips:
    """All views and crops of the first `num_videos` videos, without padding and bad records."""
    batches = pipeline.eval_batches(config, source, slice(None), model.backbone.resolution)
    batches = itertools.islice(batches, -(-num_videos // config.eval.batch_size))
    valid = [jax.tree.map(lambda array, mask=batch["mask"]: array[mask > 0], batch) for batch in batches]
    batch = jax.tree.map(lambda *parts: np.concatenate(parts)[:num_videos], *valid)
    clips_per_video = batch["video"].shape[1]  # V * crops
    video = model.normalize(jnp.asarray(batch["video"].reshape(-1, *batch["video"].shape[2:])))
    rows = np.repeat(np.arange(len(batch["record"])), clips_per_video)
    targets = {
        name: np.asarray(smooth_labels(jnp.asarray(labels), source.num_classes[name], 0.0))[rows]
        for name, labels in batch["labels"].items()
    }
    return InputClips(_float32(video), targets, batch["record"][rows], _clip_names(batch)[rows])


def arrays(clips: InputClips, class_names: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """The arrays of --npz. With two labels, the names of targets and classes end in their label: targets_verb."""
    ending = {label: f"_{label}" if len(class_names) > 1 else "" for label in class_names}
    targets = {f"targets{ending[label]}": values for label, values in clips.targets.items()}
    classes = {f"classes{ending[label]}": np.array(names) for label, names in class_names.items()}
    return {"video": clips.video, **targets, "record": clips.record, "id": clips.id, **classes}


def denormalize(video: np.ndarray, backbone: Backbone) -> np.ndarray:
    """Inverse of the normalisation for `backbone`: float [..., 3] -> pixels 0..255, uint8 [..., 3]."""
    unit_range = video * np.float32(backbone.std) + np.float32(backbone.mean)
    return np.clip(np.round(unit_range * 255), 0, 255).astype(np.uint8)


def format_targets(targets: np.ndarray, class_names: Sequence[str]) -> str:
    """Formats a target [K] as "jump 70% + run 30%". Omits classes that have only the weight of label smoothing."""
    order = np.argsort(-targets, kind="stable")
    labels = [k for k in order if targets[k] > targets.min() + 0.005] or order[:1]
    return " + ".join(f"{class_names[k]} {targets[k]:.0%}" for k in labels)


def draw_sheet(clips: InputClips, backbone: Backbone, class_names: Mapping[str, Sequence[str]], path: str) -> None:
    """Writes an image with one row per clip: its name, its classes and up to MAX_FRAMES evenly spaced frames.

    Raises:
        UserError: no clips, or the file cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which may need a display

    if not len(clips.video):
        raise UserError("no clips to draw: the first videos are unreadable; repair them or use a larger --count")
    num_frames = clips.video.shape[1]
    frames = np.linspace(0, num_frames - 1, min(MAX_FRAMES, num_frames)).round().astype(int)
    figure = Figure(figsize=(1.5 * len(frames), 1.8 * len(clips.video)), layout="constrained")
    rows = np.atleast_1d(figure.subplots(len(clips.video)))
    for row, (axes, clip, name) in enumerate(zip(rows, clips.video, clips.id, strict=True)):
        axes.imshow(montage(denormalize(clip[frames], backbone)[None]))
        classes = [format_targets(clips.targets[label][row], names) for label, names in class_names.items()]
        title = f"{name.decode(errors='replace')}: {', '.join(classes)}"
        axes.set_title(title, loc="left", fontsize=8, parse_math=False)
        axes.axis("off")
    try:
        figure.savefig(path, dpi=110)
    except (ValueError, OSError) as error:
        raise UserError(f"--output={path}: {error}") from error


def _float32(video: jax.Array) -> np.ndarray:
    return np.asarray(video.astype(jnp.float32))


def _clip_names(batch: pipeline.Batch) -> np.ndarray:
    return batch["id"].astype(np.bytes_)  # fixed length: NumPy would pickle an array of objects


def _parse_arguments() -> tuple[flags.FlagValues, ml_collections.ConfigDict]:
    """Flag values and the validated configuration. The flags are local; main.py uses absl's global flags."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "Configuration.", lock_config=True, flag_values=values)
    flags.DEFINE_enum("split", "train", ["train", "val"], "Split to show.", flag_values=values)
    flags.DEFINE_integer("count", 8, "Number of clips (train) or videos (val).", 1, flag_values=values)
    flags.DEFINE_integer("step", 0, "Completed optimizer steps before the batch (train).", 0, flag_values=values)
    flags.DEFINE_string("output", "clips.png", "Output image.", flag_values=values)
    flags.DEFINE_string("npz", "", "Output file for arrays: video, targets, record, id, classes.", flag_values=values)
    rest = parse_flags(values, sys.argv)
    if len(rest) > 1:
        raise UserError(f"unexpected arguments {' '.join(rest[1:])}; example: {EXAMPLE}")
    return values, read_config(values, EXAMPLE)


if __name__ == "__main__":
    exit_with_message(main)
