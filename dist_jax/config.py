"""Every setting of dist_jax: its default, unit and meaning. The files in configs/ hold only what differs.

The defaults are the published recipe for ViT-B/16 at 8+16 frames on Kinetics (DiST, arXiv 2309.07911, section 4.1 and
the released configuration files).
"""

import difflib
import math
from collections.abc import Callable, Sequence

import ml_collections

from dist_jax.errors import UserError


def defaults() -> ml_collections.ConfigDict:
    """The default configuration, locked: assigning to a field that does not exist raises."""
    config = ml_collections.ConfigDict(
        dict(
            seed=0,  # decides, with the step and the data, everything that is drawn
            batch_size=256,  # clips of one optimizer step, over all devices and hosts
            grad_accum_steps=1,  # parts that a batch is computed in, one after the other; the result is the same
            epochs=36.0,  # passes over the training records; may be a fraction
            steps=0,  # optimizer steps; above 0 it replaces `epochs`
            init_from="",  # DiST weights to start from: a model directory, a workdir or a published .pyth
            ema_decay=0.0,  # decay of a moving average of the parameters, used at evaluation; 0: none
            profile_steps=(),  # first and last step of a profiler trace, e.g. 10,15; empty: none
            compilation_cache="auto",  # folder of compiled programs; auto: the user's cache directory; "": none
        )
    )
    config.backbone = dict(
        weights="openai/clip-vit-base-patch16",  # hub id, Hugging Face directory, OpenAI .pt or published DiST .pyth
        layers=(),  # blocks that feed the DiST network, counted from 0, increasing; empty: all
        dtype="auto",  # of the frozen parameters and their arithmetic; auto: bfloat16, on CPU float32
    )
    config.model = dict(
        network="dist",  # key of models.networks.NETWORKS
        num_frames=16,  # T, frames of a clip
        alpha=2,  # CLIP sees every alpha-th frame: S = T / alpha
        integration_width=384,  # C, a multiple of 64
        temporal_width=96,  # M, of the temporal encoder
        num_pooling_layers=4,  # P; published: 4 on Kinetics, 2 on SSv2
        dtype="auto",  # of the trained network's arithmetic (its parameters are float32); auto: as backbone.dtype
        remat="none",  # what the DiST layers keep for the backward pass: none (keep all), layers (recompute all), dots
    )
    config.data = dict(
        source="records",  # key of data.sources.SOURCES: records | tfds | videos | dmvr
        train="",  # records: NAME@N, a glob or a folder; tfds: name/config:split; videos: a list file
        val="",  # as `train`
        videos="",  # source=videos: folder that the list's paths are relative to; empty: the list file's folder
        class_names_file="",  # file of class names, one a line; empty: labels.txt beside the training data
        label_key="label",  # which label of a record is learned: label | verb | noun
        resolution=0,  # pixels, height and width of a clip; 0: what the backbone was trained with
        sampling="segments",  # segments: one frame of each of T equal parts | dense: every `stride`-th frame
        stride=4,  # sampling=dense: distance of a clip's frames, in frames of the record
        max_bad_fraction=0.01,  # share of a split's records that may be unreadable before a run stops
        num_threads=0,  # of the input pipeline on a host; 0: as many as it has cores
        prefetch=2,  # batches kept ready on the devices
        dmvr_factory="",  # source=dmvr: importable factory, module:ClassName
        dmvr_options="",  # source=dmvr: JSON object of the factory's arguments; `train` and `val` add those of a split
    )
    config.augment = dict(
        crop_scale=(0.4, 1.0),  # share of the frame's area that a random crop takes
        crop_ratio=(0.75, 1.3333333333333333),  # width / height of a random crop, log-uniform
        hflip_prob=0.5,  # probability of a horizontal flip
        hflip_label_pairs=(),  # pairs a,b of classes that a flip exchanges, flat: (86, 87, 93, 94, 166, 167) on SSv2
        grayscale_prob=0.2,  # probability that a clip loses its colour
        color_jitter=0.0,  # strength of brightness, contrast and saturation changes, 0 to 1
        rand_augment=(),  # (operations a clip, magnitude 0 to 10); empty: off
        erase_prob=0.0,  # probability of one random erased box, the same in all frames
    )
    config.mix = dict(
        mixup_alpha=0.8,  # alpha of the Beta distribution; 0: no mixup
        cutmix_alpha=1.0,  # alpha of the Beta distribution; 0: no cutmix
        mix_prob=1.0,  # that a group is mixed at all
        switch_prob=0.5,  # share of cutmix where both are on
        group_size=32,  # consecutive clips that share one draw (published: one device's); capped at batch_size
        label_smoothing=0.1,  # share of a target that is spread over all classes
    )
    config.optimizer = dict(
        learning_rate=3.2e-4,  # peak; published for a batch of 256, taken as it stands for any other
        warmup_epochs=6.0,  # a line from warmup_rate to the cosine's value at this epoch
        warmup_init_lr=8e-7,  # where that line begins
        min_lr=0.0,  # where the cosine ends
        beta1=0.9,  # decay of the gradient's average
        beta2=0.999,  # decay of the squared gradient's average
        eps=1e-8,  # added to the root of that average
        weight_decay=1e-4,  # none on biases, 1-D parameters, tokens and positions
        grad_clip_norm=0.0,  # largest global gradient norm; 0: not limited
        nonfinite="stop",  # on a loss or gradient that is not finite: stop | skip (drop the update and count it)
    )
    config.eval = dict(
        every_epochs=1.0,  # passes over the training records between evaluations; the last step is always evaluated
        batch_size=64,  # videos of one evaluation step, over all devices
        num_views=3,  # V, temporal views
        num_crops=1,  # spatial crops of a view: 1 (centre) or 3 (along the long side)
        zero_shot_weight=0.0,  # share of plain CLIP in the logits (zero-shot: 0.5)
    )
    config.checkpoint = dict(
        save_every_steps=1000,  # optimizer steps between saves; the last step is always saved
        max_to_keep=3,  # newest checkpoints kept, beside the best
        best_metric="top1",  # metric of an evaluation whose best checkpoint is kept; "": none
    )
    config.log = dict(
        every_steps=50,  # optimizer steps between lines in metrics.jsonl and TensorBoard
        slow_input=0.2,  # share of time waiting for input above which a warning is shown
    )
    config.mesh = dict(
        data=-1,  # devices that hold the same parameters and different clips; -1: what the others leave
        fsdp=1,  # devices that split parameters and clips
        tensor=1,  # devices that split the width of the frozen backbone's blocks
    )
    return config.lock()


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError naming every field that is missing, unknown or cannot have its value, and what it may be."""
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"configuration: get_config gave a {type(config).__name__}; {_BEGIN}")
    default = dict(_fields(defaults()))
    given = dict(_fields(config))
    wrong = [f"{name} is missing" for name in default if name not in given]
    wrong += [f"{name} is not known" for name in given if name not in default]
    if wrong:
        raise UserError(f"configuration: {', '.join(wrong)}; {_BEGIN}")
    kinds = [(name, *_kind(value)) for name, value in default.items()]
    problems = [
        f"{name}={given[name]!r}: must be {wanted}" for name, allowed, wanted in kinds if not allowed(given[name])
    ] or [f"{name}={given[name]!r}: {wanted}" for name, allowed, wanted in _RULES if not _holds(allowed, config)]
    if problems:
        raise UserError("configuration: " + "; ".join(problems))


def mix_group(config: ml_collections.ConfigDict) -> int:
    """Clips that share one draw of mixing: config.mix.group_size, or the whole batch where that is smaller."""
    return min(config.mix.group_size, config.batch_size)


def check_overrides(argv: Sequence[str]) -> None:
    """Raises UserError for an argument --config.NAME whose NAME is no field, with the nearest that is."""
    names = field_names(defaults())
    for argument in argv:
        name = argument.partition("=")[0].lstrip("-").removeprefix("config.")
        if argument.lstrip("-").startswith("config.") and name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise UserError(f"configuration has no field {name!r}; the nearest is {near!r} (all: dist_jax/config.py)")


def field_names(config: ml_collections.ConfigDict) -> list[str]:
    """Dotted names of all fields, in their order."""
    return [name for name, _ in _fields(config)]


_BEGIN = "a configuration file begins with dist_jax.config.defaults() and changes its fields"


def _fields(config: ml_collections.ConfigDict, prefix: str = "") -> list[tuple[str, object]]:
    fields = []
    for key, value in config.items():
        nested = isinstance(value, ml_collections.ConfigDict)
        fields += _fields(value, f"{prefix}{key}.") if nested else [(prefix + key, value)]
    return fields


def _kind(default: object) -> tuple:
    """Whether a value is of its default's kind, and the kind's name."""
    if isinstance(default, int):
        return lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"
    if isinstance(default, float):
        return _is_number, "a finite number"
    if isinstance(default, tuple):
        return lambda v: isinstance(v, (tuple, list)) and all(map(_is_number, v)), "finite numbers, a,b or (a,b,...)"
    return lambda value: isinstance(value, str), "text"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _holds(allowed: Callable[[ml_collections.ConfigDict], bool], config: ml_collections.ConfigDict) -> bool:
    try:
        return bool(allowed(config))
    except (ArithmeticError, LookupError, TypeError, ValueError):  # a value that a rule cannot even look at
        return False


def _get(config: ml_collections.ConfigDict, name: str) -> object:
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


def _axis(name: str) -> tuple:
    return name, lambda c: _get(c, name) == -1 or _get(c, name) >= 1, "must be -1 or at least 1"


def _from_zero(values: Sequence[float]) -> bool:
    return all(isinstance(v, int) and v >= 0 for v in values)


def _range_within(name: str, high: float = float("inf")) -> tuple:
    def allowed(config: ml_collections.ConfigDict) -> bool:
        low_end, high_end = _get(config, name)
        return 0 < low_end <= high_end <= high

    bounds = "0 < low <= high" + (f" <= {high:g}" if high < float("inf") else "")
    return name, allowed, f"must be two numbers (low, high) with {bounds}"


_RULES = (
    _within("seed", 0, 2**31 - 1),
    _within("batch_size", 1),
    _within("grad_accum_steps", 1),
    (
        "grad_accum_steps",
        lambda c: c.batch_size % (c.grad_accum_steps * min(mix_group(c), 2)) == 0,
        "must divide batch_size into parts of whole pairs (mix.group_size=1: of whole clips)",
    ),
    _within("epochs", 0),
    _within("steps", 0),
    ("epochs", lambda c: c.epochs > 0 or c.steps > 0, "must be above 0 unless `steps` is"),
    _below_one("ema_decay"),
    (
        "profile_steps",
        lambda c: (
            _from_zero(c.profile_steps)
            and len(c.profile_steps) in (0, 2)
            and [*c.profile_steps] == sorted(c.profile_steps)
        ),
        "must be empty or two steps FIRST,LAST",
    ),
    _one_of("backbone.dtype", "auto", "float32", "bfloat16"),
    _one_of("model.dtype", "auto", "float32", "bfloat16"),
    _one_of("model.remat", "none", "layers", "dots"),
    _within("model.num_frames", 1),
    _within("model.alpha", 1),
    ("model.alpha", lambda c: c.model.num_frames % c.model.alpha == 0, "must divide model.num_frames"),
    (
        "backbone.layers",
        lambda c: _from_zero(c.backbone.layers) and [*c.backbone.layers] == sorted(set(c.backbone.layers)),
        "must be increasing block numbers from 0",
    ),
    (
        "model.integration_width",
        lambda c: c.model.integration_width > 0 and c.model.integration_width % 64 == 0,
        "must be a multiple of 64",
    ),
    _within("model.temporal_width", 1),
    _within("model.num_pooling_layers", 1),
    _one_of("data.label_key", "label", "verb", "noun"),
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
            and _from_zero(c.augment.hflip_label_pairs)
        ),
        "must be pairs of different class numbers",
    ),
    _within("augment.grayscale_prob", 0, 1),
    _within("augment.color_jitter", 0, 1),
    (
        "augment.rand_augment",
        lambda c: (
            len(c.augment.rand_augment) == 0
            or (
                (len(c.augment.rand_augment) == 2 and c.augment.rand_augment[0] in range(1, 15))
                and 0 <= c.augment.rand_augment[1] <= 10
            )
        ),
        "must be empty or (operations 1 to 14, magnitude 0 to 10)",
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
        "must be 1 or an even number that divides batch_size, or, for one group, at least an even batch_size: set "
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
    _axis("mesh.data"),
    _axis("mesh.fsdp"),
    _axis("mesh.tensor"),
    ("mesh.data", lambda c: list(c.mesh.values()).count(-1) <= 1, "only one of data, fsdp and tensor may be -1"),
)
