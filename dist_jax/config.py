"""All settings of dist_jax: default, unit, meaning, and validation. The files in configs/ only change the defaults.

The defaults are the published recipe for ViT-B/16 at 8+16 frames on Kinetics (DiST, arXiv 2309.07911, section 4.1 and
the released configuration files).
"""

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from dist_jax.errors import UserError


def defaults() -> ml_collections.ConfigDict:
    """The default configuration. It is locked: assigning to an unknown field raises AttributeError."""
    config = ml_collections.ConfigDict(
        dict(
            seed=0,  # with the step and the data, it determines all random choices
            batch_size=256,  # clips per optimizer step, over all devices and hosts
            grad_accum_steps=1,  # equal parts of a batch, computed one after the other; the update is the same
            epochs=36.0,  # passes over the training records; may be fractional
            steps=0,  # optimizer steps; if above 0, it replaces `epochs`
            init_from="",  # initial DiST parameters: a model directory, a workdir or a published .pyth; empty: random
            ema_decay=0.0,  # decay of the moving average of the parameters, which evaluations use; 0: none
            profile_steps=(),  # first and last step of a profiler trace, e.g. (10, 15); empty: none
            compilation_cache="auto",  # folder of compiled programs; "auto": user cache directory; empty: none
        )
    )
    config.backbone = dict(
        weights="openai/clip-vit-base-patch16",  # hub id, Hugging Face directory, OpenAI .pt or published DiST .pyth
        activation="",  # quick_gelu | gelu, only for weights that do not contain it (open_clip's epoch_N.pt)
        num_heads=(),  # attention heads (image tower, text tower), only for weights that do not contain them
        layers=(),  # blocks that the DiST network reads, from 0, increasing; empty: all
        dtype="auto",  # frozen parameters and their computation; auto: bfloat16, on CPU float32
        quantize="",  # int8 | fp8: quantised linear layers in the image tower's blocks; empty: off
    )
    config.model = dict(
        network="dist",  # key of models.networks.NETWORKS, or "none": plain CLIP, which only evaluates
        num_frames=16,  # T, frames per clip
        alpha=2,  # the backbone sees every alpha-th frame: S = T / alpha
        integration_width=384,  # C, width of the integration branch; a multiple of 64
        temporal_width=96,  # M, width of the temporal encoder
        num_pooling_layers=4,  # P, pooling layers; published: 4 on Kinetics, 2 on SSv2
        dtype="auto",  # computation of the DiST network (its parameters are float32); auto: backbone.dtype
        remat="elementwise",  # what the backward pass computes again: elementwise (LayerNorm, g) | layers (all)
    )
    config.data = dict(
        source="records",  # key of data.sources.SOURCES: records | tfds | videos | dmvr
        train="",  # records: NAME@N, a glob or a folder; tfds: name/config:split; videos: a list file
        val="",  # same format as `train`
        videos="",  # source=videos: folder of the listed paths; empty: folder of the list file
        square_pixels=True,  # source=videos: scale the width of frames with non-square pixels
        class_names_file="",  # one class name per line; VERBS,NOUNS for two labels; empty: files of the training data
        label_key="label",  # label to learn: label | verb | noun | verb,noun (two classifiers)
        multi_label=False,  # a video has any number of labels: sigmoid cross-entropy, mean average precision
        classes_file="",  # file with some of the class names: only their records are used; empty: all
        shots_per_class=0,  # training records per class, drawn with `seed`; 0: all
        prompt_templates_file="",  # one per line, e.g. "a video of {}": text features are averaged; empty: the name
        resolution=0,  # height and width of a clip, pixels; 0: the resolution of the backbone
        sampling="segments",  # segments: one frame from each of T equal segments | dense: every `stride`-th frame
        stride=4,  # sampling=dense: distance between frames of a clip, in frames of the record
        max_bad_fraction=0.01,  # a run stops if a larger share of the records of a split is unreadable
        num_threads=0,  # input threads per host; 0: one more than cores
        prefetch=2,  # batches kept ready on the devices
        dmvr_factory="",  # source=dmvr: importable factory, module:ClassName
        dmvr_options="",  # source=dmvr: factory arguments, a JSON object; `train` and `val` add to it for their split
    )
    config.augment = dict(
        crop_scale=(0.4, 1.0),  # area of a random crop, as a share of the frame
        crop_ratio=(0.75, 1.3333333333333333),  # width / height of a random crop; log-uniform
        hflip_prob=0.5,  # probability of a horizontal flip
        hflip_label_pairs=(),  # labels a,b,c,d,... that a flip swaps (a with b, c with d); SSv2: 86,87,93,94,166,167
        grayscale_prob=0.2,  # probability that a clip becomes gray
        color_jitter=0.0,  # strength of brightness, contrast and saturation changes, 0 to 1
        rand_augment=(),  # (operations per clip, magnitude 0 to 10); empty: off
        erase_prob=0.0,  # probability of erasing one random box, the same in all frames
    )
    config.mix = dict(
        mixup_alpha=0.8,  # alpha of the Beta distribution of Mixup; 0: no Mixup
        cutmix_alpha=1.0,  # alpha of the Beta distribution of CutMix; 0: no CutMix
        mix_prob=1.0,  # probability that a group is mixed
        switch_prob=0.5,  # probability of CutMix instead of Mixup if both are on
        group_size=32,  # consecutive clips that share one draw (published: the clips of a device); at most batch_size
        label_smoothing=0.1,  # share of the target that is distributed equally over all classes
    )
    config.optimizer = dict(
        learning_rate=3.2e-4,  # peak; published for batch size 256, not scaled with batch_size
        warmup_epochs=6.0,  # length of the linear warm-up to the value of the cosine at its end
        warmup_init_lr=8e-7,  # start of the warm-up
        min_lr=0.0,  # end of the cosine
        beta1=0.9,  # decay of the first moment
        beta2=0.999,  # decay of the second moment
        eps=1e-8,  # added to the square root of the second moment
        weight_decay=1e-4,  # none on biases, 1-D parameters, tokens and positions
        grad_clip_norm=0.0,  # maximum global gradient norm; 0: no clipping
        nonfinite="stop",  # if the loss or a gradient is not finite: stop | skip (drop the update and count it)
    )
    config.eval = dict(
        every_epochs=1.0,  # epochs between evaluations; always after the last step, not just before it
        batch_size=64,  # videos per evaluation step, over all devices
        num_views=3,  # V, temporal views per video
        num_crops=1,  # spatial crops per view: 1 (centre) or 3 (along the long side)
        zero_shot_weight=0.0,  # weight of the plain CLIP logits; zero-shot protocol: 0.5
        video_lists="",  # lists of videos, a,b,...: each one is a split; globs join files; empty: all videos
        class_lists="",  # lists of class names, a,b,...: each one is a split with its own classes; empty: all classes
        has_labels=True,  # False: the videos have no labels; only scores are written
        epic_annotations="",  # folder of EPIC-KITCHENS-100's annotations: unseen participants, tail classes
    )
    config.checkpoint = dict(
        save_every_steps=1000,  # optimizer steps between checkpoints; the last step is always saved
        max_to_keep=3,  # newest checkpoints to keep, in addition to the best
        best_metric="top1",  # key of evaluation.metrics.METRICS; the best checkpoint is also kept; empty: none
    )
    config.log = dict(
        every_steps=50,  # optimizer steps between lines in metrics.jsonl and TensorBoard
        slow_input=0.2,  # share of time spent waiting for input above which a warning is printed
    )
    config.mesh = dict(
        data=-1,  # devices with the same parameters and different clips; -1: all remaining devices
        fsdp=1,  # devices that shard parameters and clips
        tensor=1,  # devices that shard the width of the backbone blocks
    )
    return config.lock()


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError that lists all missing, unknown and invalid fields with their allowed values."""
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"configuration: get_config returned a {type(config).__name__}; {_USE_DEFAULTS}")
    default = dict(_fields(defaults()))
    given = dict(_fields(config))
    differences = [f"{name} is missing" for name in default if name not in given]
    differences += [f"{name} is unknown" for name in given if name not in default]
    if differences:
        raise UserError(f"configuration: {', '.join(differences)}; {_USE_DEFAULTS}")
    types = [(name, *_type_rule(value)) for name, value in default.items()]
    problems = [
        f"{name}={given[name]!r}: must be {expected}" for name, is_valid, expected in types if not is_valid(given[name])
    ] or [f"{name}={given[name]!r}: {expected}" for name, is_valid, expected in _RULES if not _holds(is_valid, config)]
    if problems:
        raise UserError("configuration: " + "; ".join(problems))


def mix_group(config: ml_collections.ConfigDict) -> int:
    """Number of clips that share one Mixup or CutMix draw: mix.group_size, at most batch_size."""
    return min(config.mix.group_size, config.batch_size)


def label_names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the labels that a run learns, in the order of their classifiers: ("label",) or ("verb", "noun")."""
    return tuple(config.data.label_key.split(","))


def check_overrides(argv: Sequence[str]) -> None:
    """Raises UserError for an argument --config.NAME with an unknown NAME; names the nearest field."""
    names = field_names(defaults())
    for argument in argv:
        name = argument.partition("=")[0].lstrip("-").removeprefix("config.")
        if argument.lstrip("-").startswith("config.") and name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise UserError(
                f"the configuration has no field {name!r}; the nearest is {nearest!r} (all: dist_jax/config.py)"
            )


def field_names(config: ml_collections.ConfigDict) -> list[str]:
    """Dotted names of all fields, in order."""
    return [name for name, _ in _fields(config)]


_USE_DEFAULTS = "start with dist_jax.config.defaults() and change its fields"


def _fields(config: ml_collections.ConfigDict, prefix: str = "") -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = []
    for key, value in config.items():
        nested = isinstance(value, ml_collections.ConfigDict)
        fields += _fields(value, f"{prefix}{key}.") if nested else [(prefix + key, value)]
    return fields


def _type_rule(default: object) -> tuple:
    """(predicate, name) of the type of a default."""
    if isinstance(default, bool):
        return lambda value: isinstance(value, bool), "True or False"
    if isinstance(default, int):
        return lambda value: isinstance(value, int) and not isinstance(value, bool), "an integer"
    if isinstance(default, float):
        return _is_number, "a finite number"
    if isinstance(default, tuple):
        return lambda v: isinstance(v, (tuple, list)) and all(map(_is_number, v)), "finite numbers a,b,..."
    return lambda value: isinstance(value, str), "a string"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _holds(is_valid: Callable[[ml_collections.ConfigDict], bool], config: ml_collections.ConfigDict) -> bool:
    try:
        return bool(is_valid(config))
    except (ArithmeticError, LookupError, TypeError, ValueError):  # e.g. a tuple of the wrong length
        return False


def _get(config: ml_collections.ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _one_of(name: str, *values: object) -> tuple:
    return name, lambda c: _get(c, name) in values, f"must be one of {', '.join(map(repr, values))}"


def _within(name: str, low: float, high: float = float("inf")) -> tuple:
    bounds = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
    return name, lambda c: low <= _get(c, name) <= high, f"must be {bounds}"


def _above_zero(name: str) -> tuple:
    return name, lambda c: _get(c, name) > 0, "must be above 0"


def _below_one(name: str) -> tuple:
    return name, lambda c: 0 <= _get(c, name) < 1, "must be at least 0 and below 1"


def _axis_size(name: str) -> tuple:
    return name, lambda c: _get(c, name) == -1 or _get(c, name) >= 1, "must be -1 or at least 1"


def _are_indices(values: Sequence[float]) -> bool:
    return all(isinstance(v, int) and v >= 0 for v in values)


def _range_within(name: str, high: float = float("inf")) -> tuple:
    def is_valid(config: ml_collections.ConfigDict) -> bool:
        low, upper = _get(config, name)
        return 0 < low <= upper <= high

    bounds = "0 < low <= high" + (f" <= {high:g}" if high < float("inf") else "")
    return name, is_valid, f"must be two numbers (low, high) with {bounds}"


# (field, predicate on the whole configuration, what the field must be)
_RULES = (
    _within("seed", 0, 2**31 - 1),
    _within("batch_size", 1),
    _within("grad_accum_steps", 1),
    (
        "grad_accum_steps",
        lambda c: c.batch_size % (c.grad_accum_steps * min(mix_group(c), 2)) == 0,
        "must divide batch_size into equal parts with an even number of clips (any number if mix.group_size=1)",
    ),
    _within("epochs", 0),
    _within("steps", 0),
    ("epochs", lambda c: c.epochs > 0 or c.steps > 0, "must be above 0 unless steps is above 0"),
    _below_one("ema_decay"),
    (
        "profile_steps",
        lambda c: (
            _are_indices(c.profile_steps)
            and len(c.profile_steps) in (0, 2)
            and [*c.profile_steps] == sorted(c.profile_steps)
            and 0 not in c.profile_steps
        ),
        "must be empty or two steps FIRST,LAST, counted from 1",
    ),
    _one_of("backbone.activation", "", "quick_gelu", "gelu"),
    ("backbone.num_heads", lambda c: _are_indices(c.backbone.num_heads), "must be empty or IMAGE,TEXT, e.g. 16,20"),
    _one_of("backbone.dtype", "auto", "float32", "bfloat16"),
    _one_of("backbone.quantize", "", "int8", "fp8"),
    _one_of("model.dtype", "auto", "float32", "bfloat16"),
    _one_of("model.remat", "elementwise", "layers"),
    _within("model.num_frames", 1),
    _within("model.alpha", 1),
    ("model.alpha", lambda c: c.model.num_frames % c.model.alpha == 0, "must divide model.num_frames"),
    (
        "backbone.layers",
        lambda c: _are_indices(c.backbone.layers) and [*c.backbone.layers] == sorted(set(c.backbone.layers)),
        "must be increasing block numbers, counted from 0",
    ),
    (
        "model.integration_width",
        lambda c: c.model.integration_width > 0 and c.model.integration_width % 64 == 0,
        "must be a multiple of 64",
    ),
    _within("model.temporal_width", 1),
    _within("model.num_pooling_layers", 1),
    _one_of("data.label_key", "label", "verb", "noun", "verb,noun"),
    (
        "data.multi_label",
        lambda c: not c.data.multi_label or (c.data.label_key == "label" and not c.data.shots_per_class),
        "needs data.label_key=label and data.shots_per_class=0",
    ),
    _within("data.shots_per_class", 0),
    (
        "data.classes_file",
        lambda c: not c.data.classes_file or (len(label_names(c)) == 1 and not c.data.multi_label),
        "needs a single label per video",
    ),
    (
        "eval.class_lists",
        lambda c: not c.eval.class_lists or (len(label_names(c)) == 1 and not c.data.multi_label),
        "needs a single label per video",
    ),
    ("eval.video_lists", lambda c: not (c.eval.video_lists and c.eval.class_lists), "set it or eval.class_lists"),
    _one_of("data.sampling", "segments", "dense"),
    _within("data.stride", 1),
    _within("data.resolution", 0),
    _within("data.max_bad_fraction", 0, 1),
    _within("data.num_threads", 0),
    _within("data.prefetch", 1),
    _range_within("augment.crop_scale", 1),
    _range_within("augment.crop_ratio"),
    _within("augment.hflip_prob", 0, 1),
    (
        "augment.hflip_label_pairs",
        lambda c: (
            len(c.augment.hflip_label_pairs) % 2 == 0
            and len(set(c.augment.hflip_label_pairs)) == len(c.augment.hflip_label_pairs)
            and _are_indices(c.augment.hflip_label_pairs)
        ),
        "must be an even number of different class numbers",
    ),
    _within("augment.grayscale_prob", 0, 1),
    _within("augment.color_jitter", 0, 1),
    (
        "augment.rand_augment",
        lambda c: (
            len(c.augment.rand_augment) == 0
            or (
                (len(c.augment.rand_augment) == 2 and _are_indices(c.augment.rand_augment[:1]))
                and 1 <= c.augment.rand_augment[0] <= 14
                and 0 <= c.augment.rand_augment[1] <= 10
            )
        ),
        "must be empty or (operations, an integer from 1 to 14; magnitude 0 to 10)",
    ),
    _within("augment.erase_prob", 0, 1),
    _within("mix.mixup_alpha", 0),
    _within("mix.cutmix_alpha", 0),
    _within("mix.mix_prob", 0, 1),
    _within("mix.switch_prob", 0, 1),
    _within("mix.group_size", 1),
    (
        "mix.group_size",
        lambda c: c.batch_size % mix_group(c) == 0 and (mix_group(c) == 1 or mix_group(c) % 2 == 0),
        "must be 1, or an even number that divides batch_size, or at least an even batch_size (one group); change "
        "mix.group_size or batch_size",
    ),
    _below_one("mix.label_smoothing"),
    _above_zero("optimizer.learning_rate"),
    _within("optimizer.warmup_epochs", 0),
    _within("optimizer.warmup_init_lr", 0),
    _within("optimizer.min_lr", 0),
    _below_one("optimizer.beta1"),
    _below_one("optimizer.beta2"),
    _above_zero("optimizer.eps"),
    _within("optimizer.weight_decay", 0),
    _within("optimizer.grad_clip_norm", 0),
    _one_of("optimizer.nonfinite", "stop", "skip"),
    _above_zero("eval.every_epochs"),
    _within("eval.batch_size", 1),
    _within("eval.num_views", 1),
    _one_of("eval.num_crops", 1, 3),
    _within("eval.zero_shot_weight", 0, 1),
    _within("checkpoint.save_every_steps", 1),
    _within("checkpoint.max_to_keep", 1),
    _within("log.every_steps", 1),
    _within("log.slow_input", 0, 1),
    _axis_size("mesh.data"),
    _axis_size("mesh.fsdp"),
    _axis_size("mesh.tensor"),
    ("mesh.data", lambda c: list(c.mesh.values()).count(-1) <= 1, "only one of data, fsdp and tensor may be -1"),
)
