"""EPIC-KITCHENS-100: accuracies from saved scores, and the file for the challenge.

    python -m dist_jax.epic --scores RUN/results/evaluate_scores.npz --annotations ANNOTATIONS/EPIC_100_validation.csv
    python -m dist_jax.epic --verb-scores RUN1/results/evaluate_scores.npz \\
        --noun-scores RUN2/results/evaluate_scores.npz --annotations ANNOTATIONS/EPIC_100_validation.csv
    python -m dist_jax.epic --scores RUN/results/test_scores.npz \\
        --annotations ANNOTATIONS/EPIC_100_test_timestamps.csv --output test.zip --sls-pt 2 --sls-tl 3 --sls-td 3

An evaluation (python -m dist_jax.main --evaluate) with data.label_key=verb,noun, verb or noun writes the scores. With
two runs, each trained on one label, the scores of both are joined. The folder of the annotations may contain the lists
of unseen participants and tail classes.
"""

import argparse
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from dist_jax.errors import UserError, exit_with_message, warn
from dist_jax.evaluation.epic import EpicScores, epic_metrics, join_runs
from dist_jax.evaluation.epic_annotations import format_ids, missing_ids, read_groups, read_labels, read_narration_ids
from dist_jax.evaluation.epic_submission import check_submission, write_submission
from dist_jax.evaluation.run_scores import read_run_scores
from dist_jax.files import user_path

SUPERVISION = {
    "--sls-pt": "0 none, 1 public images, 2 and public videos, 3 self-supervised, 4 also on EPIC, 5 private data",
    "--sls-tl": "0 none, 1 videos, 2 narration times, 3 start and end of actions, 4 spatial annotations, 5 more",
    "--sls-td": "0 none, 1 five examples per class, 2 a quarter of the training set, 3 training set, 4 and validation, "
    "5 more",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments `argv`; default: those of the process."""
    args = _parse_arguments(argv)
    scores = read_scores(args.verb_scores, args.noun_scores)
    if args.output:
        write_challenge_file(args.output, scores, args.annotations, args.sls_pt, args.sls_tl, args.sls_td)
        print(f"{args.output}: the scores of {len(scores.narration_ids):,} segments")
    else:
        folder = os.path.dirname(args.annotations) or "."
        print(metrics_table(epic_metrics(scores, read_labels(args.annotations), read_groups(folder))))


def read_scores(verb_file: str, noun_file: str) -> EpicScores:
    """Verb and noun scores of the segments that both files have; warns about the others. The files may be the same."""
    joined = join_runs(read_run_scores(verb_file, "verb"), read_run_scores(noun_file, "noun"))
    for line in joined.missing_lines():
        warn(f"{line}; these segments are not counted")
    return joined.scores


def metrics_table(metrics: dict[str, float]) -> str:
    """The metrics of `epic_metrics` as a Markdown table with one row per group of segments."""
    rows = [
        "| segments | number | verb top-1 / top-5 | noun top-1 / top-5 | action top-1 / top-5 |",
        "|---|---|---|---|---|",
    ]
    groups = {"all": ("", metrics["videos"])}
    if "unseen_videos" in metrics:
        groups["unseen participants"] = ("unseen_", metrics["unseen_videos"])
    for title, (prefix, number) in groups.items():
        cells = [_accuracies(metrics, f"{prefix}{kind}") for kind in ("verb", "noun", "action")]
        rows.append(f"| {title} | {number} | {' | '.join(cells)} |")
    for position, kind in enumerate(("verb", "noun", "action")):
        if f"tail_{kind}_videos" in metrics:
            cells = [""] * 3
            cells[position] = _accuracies(metrics, f"tail_{kind}")
            rows.append(f"| tail {kind}s | {metrics[f'tail_{kind}_videos']} | {' | '.join(cells)} |")
    if metrics["missing"]:
        rows.append(f"\n{metrics['missing']} annotated segments have no scores")
    return "\n".join(rows)


def write_challenge_file(
    path: str, scores: EpicScores, annotations: str, sls_pt: int, sls_tl: int, sls_td: int
) -> None:
    """Writes a zip file with test.json and checks it.

    Args:
        path: NAME.zip.
        scores: of the test set.
        annotations: CSV file of the test set; every segment in it needs scores.
        sls_pt: supervision of the pre-training (see `epic_submission.write_submission`).
        sls_tl: training labels.
        sls_td: training data.

    Raises:
        UserError: segments without scores, segments that are not in the annotations, or the file cannot be written.
    """
    expected = read_narration_ids(annotations)
    absent = missing_ids(expected, scores.narration_ids)
    if absent:
        raise UserError(
            f"no scores for {format_ids(absent)}; the challenge needs all {len(expected):,}: see failed.csv"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "test.json")
        write_submission(file, scores, sls_pt, sls_tl, sls_td)
        check_submission(file, expected)
        try:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(file, "test.json")
        except OSError as error:
            Path(path).unlink(missing_ok=True)
            raise UserError(f"--output {path}: {error}") from error


def _accuracies(metrics: dict[str, float], name: str) -> str:
    return f"{100 * metrics[f'{name}_top1']:.1f} / {100 * metrics[f'{name}_top5']:.1f}"


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.epic", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", type=user_path, default="", help="scores of a run with verbs and nouns")
    parser.add_argument("--verb-scores", type=user_path, default="", help="scores of a run with verbs")
    parser.add_argument("--noun-scores", type=user_path, default="", help="scores of a run with nouns")
    parser.add_argument("--annotations", type=user_path, required=True, help="published CSV file of the split")
    parser.add_argument("--output", type=user_path, default="", help="challenge file to write, NAME.zip")
    for option, meaning in SUPERVISION.items():
        parser.add_argument(option, type=int, choices=range(6), help=f"challenge file: {meaning}")
    args = parser.parse_args(argv)
    if bool(args.scores) == bool(args.verb_scores or args.noun_scores) or bool(args.verb_scores) != bool(
        args.noun_scores
    ):
        raise UserError("set --scores FILE, or --verb-scores FILE and --noun-scores FILE")
    if args.output and None in (args.sls_pt, args.sls_tl, args.sls_td):
        raise UserError(f"--output {args.output}: the challenge needs {', '.join(SUPERVISION)} (see --help)")
    if args.output and not args.output.endswith(".zip"):
        raise UserError(f"--output {args.output}: must end in .zip; the challenge accepts a zip file with test.json")
    args.verb_scores, args.noun_scores = args.verb_scores or args.scores, args.noun_scores or args.scores
    return args


if __name__ == "__main__":
    exit_with_message(main)
