"""Joins one validation video of each class of the demo to one longer video, for `dist_jax.predict --timeline`.

python -m examples.demo.join_videos --videos demo/videos --output demo/long.mp4
"""

import argparse
from pathlib import Path

import av

from dist_jax.errors import UserError, exit_with_message
from dist_jax.video.video_list import read_list


def main() -> None:
    """Writes the video and prints its classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder of the rendered videos")
    parser.add_argument("--output", type=Path, required=True, help="video to write")
    args = parser.parse_args()
    if not (args.videos / "val.txt").is_file():
        raise UserError(f"{args.videos}/val.txt does not exist; run examples.demo.render_videos first")
    first_of_class = {segment.label: segment.path for segment in reversed(read_list(str(args.videos / "val.txt")))}
    join([args.videos / first_of_class[label] for label in sorted(first_of_class)], args.output)
    print(f"{args.output}: {', '.join(sorted(first_of_class))}")


def join(paths: list[Path], output: Path) -> None:
    """Writes the frames of videos with equal sizes and rates one after the other, as H.264."""
    with av.open(str(output), "w") as target:
        stream, number = None, 0
        for path in paths:
            with av.open(str(path)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream("libx264", rate=video.average_rate)
                    stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
                for frame in source.decode(video):
                    frame.pts, frame.time_base = number, 1 / video.average_rate
                    number += 1
                    target.mux(stream.encode(frame))
        target.mux(stream.encode())


if __name__ == "__main__":
    exit_with_message(main)
