"""Renders stand-ins of Kinetics-400, -600, -700, UCF101, HMDB51 and EPIC-KITCHENS-100 in their published layouts.

    python -m examples.rehearsal.render --output rehearsal/data

OUTPUT contains annotations/ (annotations/kinetics has one folder per set, the other data sets one folder each), videos/
and expected/. The lines of expected/STAGE.txt must occur in the output of a stage of scripts/rehearsal.sh.
"""

import argparse
import json
from pathlib import Path

from dist_jax.errors import UserError, exit_with_message
from examples.rehearsal import actions, clips, epic, expected, kinetics

SEED = 0
SIZES = {  # --short or not
    True: kinetics.Sizes(train=(5, 4, 4), val=(3, 2, 2), shared=2),
    False: kinetics.Sizes(train=(90, 42, 42), val=(24, 4, 4), shared=5),
}
VIDEOS_PER_SPLIT = {True: 1, False: 6}  # test videos per class and split of UCF101 and HMDB51
SEGMENTS = {True: 4, False: 60}  # per video of EPIC-KITCHENS-100


def main() -> None:
    """Renders all data sets, unless --output contains them."""
    args = _parser().parse_args()
    output = Path(args.output)
    if is_finished(output, args.short):
        print(f"render: {output} already contains all videos")
        return
    lists, count = kinetics.make_lists(SIZES[args.short]), VIDEOS_PER_SPLIT[args.short]
    write_files(output / "annotations" / "kinetics", kinetics.annotation_files(lists))
    class_lists = {f"{name}.txt": "".join(f"{c}\n" for c in names) for name, names in kinetics.CLASS_LISTS.items()}
    write_files(output / "annotations" / "k600_classes", class_lists)
    write_files(output / "annotations" / "ucf101", actions.ucf101_files(count))
    write_files(output / "annotations" / "hmdb51", actions.hmdb51_files(count))
    segments = epic.make_segments(SEGMENTS[args.short], SEED)
    write_files(output / "annotations" / "epic100", epic.annotation_files(segments))
    write_files(output / "expected", expected.texts(lists, count, segments))
    videos = {
        "kinetics": lists.clips,
        "ucf101": actions.ucf101_clips(count),
        "hmdb51": actions.hmdb51_clips(count),
        "epic100": epic.clips(segments),
    }
    all_clips = [clips.in_folder(clip, name) for name, of_set in videos.items() for clip in of_set]
    clips.render_all(all_clips, output / "videos", SEED)
    (output / "settings.json").write_text(json.dumps({"short": args.short}) + "\n")
    print(f"render: {', '.join(f'{len(of_set)} videos of {name}' for name, of_set in videos.items())} in {output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder for the annotations and the videos")
    parser.add_argument("--short", action="store_true", help="a few videos of each class")
    return parser


def is_finished(output: Path, short: bool) -> bool:
    """True if `output` contains all videos. Raises UserError if it was rendered with other settings."""
    path = output / "settings.json"
    if not path.exists():
        return False
    if json.loads(path.read_text()) != {"short": short}:
        raise UserError(f"{output} was rendered {'without' if short else 'with'} --short: use another --output")
    return True


def write_files(folder: Path, texts: dict[str, str]) -> None:
    """Writes the texts to FOLDER/NAME."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    exit_with_message(main)
