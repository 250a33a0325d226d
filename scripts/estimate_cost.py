"""Estimates floating-point operations, hours and cost of a training run on several accelerators.

    python -m scripts.estimate_cost                          default: Kinetics-710, ViT-L/14, 32+64 frames
    python -m scripts.estimate_cost --clips 240436 --val-videos 19796 --price v5e=0.84

Operations are computed from the dimensions, hours from an assumed utilisation, costs from the given prices. None of
them is measured. To measure, use `clips_per_second` in metrics.jsonl of a short run.
"""

import argparse
import dataclasses

from dist_jax.errors import UserError, exit_with_message

K710_TRAIN, K710_VAL = 658_340, 66_803  # videos; VideoMAE V2's data list (UniFormerV2, which made K710: 0.66 M)
# The prices in MACHINES are not verified. Set your own with --price.
PRICES = "list prices of 2025 from memory, not verified"


@dataclasses.dataclass(frozen=True)
class Model:
    """Dimensions that determine a model's operations (symbols as in the README). All CLIP blocks are selected."""

    patch: int  # height and width of a patch, in pixels
    N: int  # patches per frame
    D: int
    L: int
    T: int
    S: int
    E: int
    C: int = 384
    M: int = 96
    P: int = 4


@dataclasses.dataclass(frozen=True)
class Machine:
    """A TPU slice or a GPU node."""

    label: str
    chip: str  # name in --price
    num_chips: int
    peak: float  # dense bfloat16 FLOP per second and chip, from the data sheets
    price: float  # USD per chip-hour, on demand in the USA: see PRICES


MODELS = {
    "vitb16-8+16": Model(patch=16, N=196, D=768, L=12, T=16, S=8, E=512),
    "vitb16-32+64": Model(patch=16, N=196, D=768, L=12, T=64, S=32, E=512),
    "vitl14-32+64": Model(patch=14, N=256, D=1024, L=24, T=64, S=32, E=768),
}
MACHINES = (
    Machine("TPU v5e-64", "v5e", 64, 197e12, 1.20),
    Machine("TPU v6e-16", "v6e", 16, 918e12, 2.70),
    Machine("8 x H100 SXM", "h100", 8, 989e12, 11.06),
    Machine("8 x H200", "h200", 8, 989e12, 10.60),
)


def clip_flops(m: Model) -> float:
    """Operations of the frozen backbone on the S frames of one clip. A multiply-add counts as two."""
    tokens = 1 + m.N
    patches = m.N * 3 * m.patch**2 * m.D
    linear = tokens * 12 * m.D**2  # query, key, value, out: 4 D^2; MLP: 8 D^2
    attention = 2 * tokens**2 * m.D  # scores, and the weighted sum of the values
    return 2 * m.S * (patches + m.L * (linear + attention))


def dist_flops(m: Model) -> float:
    """Operations of one forward pass of the DiST network on one clip."""
    tokens = m.S * (1 + m.N)
    grid = m.T * m.N
    stem = grid * 5 * 3 * m.patch**2 * m.M
    temporal = grid * (3 + 9) * m.M**2
    exchange = tokens * m.D * m.C + m.S * m.N * m.C * m.M + grid * m.M * m.C
    ffn = tokens * 2 * m.C**2
    tffn = tokens * (2 * m.C * m.C // 4 + 3 * (m.C // 4) ** 2)
    spatial_query = tokens * 2 * m.C**2 + tokens * 2 * m.C + m.S * 10 * m.C**2  # keys, values; attention; out and MLP
    video_query = m.S * 2 * m.C**2 + m.S * 2 * m.C + 10 * m.C**2
    head = m.D * m.C + m.C * m.E
    return 2 * (stem + m.L * (temporal + exchange + ffn + tffn) + m.P * (spatial_query + video_query) + head)


def training_flops(m: Model) -> float:
    """Operations of training on one clip: CLIP forward, DiST forward and backward (backward: twice the forward)."""
    return clip_flops(m) + 3 * dist_flops(m)


def run_flops(m: Model, clips: int, epochs: float, val_videos: int, num_views: int, evaluations: float) -> float:
    """Operations of a run: all clips in every epoch, all views of all validation videos in every evaluation."""
    evaluation = val_videos * num_views * (clip_flops(m) + dist_flops(m))
    return clips * epochs * training_flops(m) + evaluations * evaluation


def hours(machine: Machine, flops: float, utilisation: float) -> float:
    """Hours for `flops` operations on the machine at `utilisation`, a share of its peak from 0 to 1."""
    return flops / (machine.num_chips * machine.peak * utilisation) / 3600


def main() -> None:
    """Prints the estimate."""
    args = _parser().parse_args()
    _check(args)
    print("\n".join(report(args)))


def report(args: argparse.Namespace) -> list[str]:
    """The estimate as lines of Markdown."""
    model = MODELS[args.model]
    evaluations = args.epochs / args.eval_every_epochs
    total = run_flops(model, args.clips, args.epochs, args.val_videos, args.views, evaluations)
    lines = [
        f"{args.model} frames, {args.clips:,} clips, {args.epochs:g} epochs, {evaluations:g} evaluations of "
        f"{args.val_videos:,} videos x {args.views} views",
        f"one clip: CLIP {clip_flops(model) / 1e12:.2f} TFLOP, DiST {dist_flops(model) / 1e12:.2f} TFLOP forward, "
        f"training {training_flops(model) / 1e12:.2f} TFLOP; full run: {total:.2e} FLOP",
        f"assumed: {args.utilisation:.0%} of the bfloat16 peak; {PRICES}",
        "",
        "| machine | hours | training clips/s | JPEG frames/s per chip | USD per chip-hour | USD per run |",
        "|---|---|---|---|---|---|",
    ]
    prices = dict(map(_price, args.price))
    for machine in MACHINES:
        price = prices.get(machine.chip, machine.price)
        time = hours(machine, total, args.utilisation)
        rate = machine.num_chips * machine.peak * args.utilisation / training_flops(model)
        frames = rate * model.T / machine.num_chips
        cost = time * machine.num_chips * price
        lines.append(f"| {machine.label} | {time:.1f} | {rate:.0f} | {frames:.0f} | {price:.2f} | {cost:.0f} |")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", choices=MODELS, default="vitl14-32+64", help="backbone and number of frames (CLIP + temporal)"
    )
    parser.add_argument("--clips", type=int, default=K710_TRAIN, help="training clips (default: Kinetics-710)")
    parser.add_argument("--epochs", type=float, default=36, help="default: the published recipe for Kinetics-400")
    parser.add_argument("--val-videos", type=int, default=K710_VAL, help="validation videos")
    parser.add_argument("--views", type=int, default=3, help="views per validation video, crops included")
    parser.add_argument("--eval-every-epochs", type=float, default=1, help="same as config.eval.every_epochs")
    parser.add_argument("--utilisation", type=float, default=0.4, help="achieved share of the peak, 0 to 1")
    parser.add_argument(
        "--price", action="append", default=[], metavar="CHIP=USD", help="USD per chip-hour, e.g. v5e=0.84; repeatable"
    )
    return parser


def _check(args: argparse.Namespace) -> None:
    for name in ("clips", "epochs", "val_videos", "views", "eval_every_epochs", "utilisation"):
        value = getattr(args, name)
        if value <= 0:
            raise UserError(f"--{name.replace('_', '-')}={value:g}: must be above 0")
    if args.utilisation > 1:
        raise UserError(f"--utilisation={args.utilisation:g}: must be at most 1")
    for text in args.price:
        _price(text)


def _price(text: str) -> tuple[str, float]:
    """Splits CHIP=USD. Raises UserError for an unknown chip or an invalid price."""
    chip, _, value = text.partition("=")
    try:
        price = float(value)
    except ValueError:
        price = -1
    chips = [machine.chip for machine in MACHINES]
    if chip not in chips or not 0 <= price < float("inf"):
        raise UserError(f"--price={text}: must be CHIP=USD, with CHIP one of {', '.join(chips)}")
    return chip, price


if __name__ == "__main__":
    exit_with_message(main)
