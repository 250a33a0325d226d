"""Stand-ins of UCF101 and HMDB51: published lists of three splits, and files that are converted to .mp4.

The classes of UCF101 are six motions. Two of them are not in Kinetics. Those of HMDB51 are colours with a shape, which
the CLIP has seen, and no training of DiST.
"""

import itertools

from examples.demo import scenes
from examples.rehearsal.clips import Clip, Part

UCF101 = {  # folder -> motion
    "Growing": "growing",
    "MovingLeft": "moving left",
    "MovingRight": "moving right",
    "Shrinking": "shrinking",
    "TurningClockwise": "turning clockwise",
    "TurningCounterClockwise": "turning counter-clockwise",
}
HMDB51 = {  # folder -> colour, shape
    "blue_star": ("blue", "star"),
    "green_square": ("green", "square"),
    "red_circle": ("red", "circle"),
    "white_triangle": ("white", "triangle"),
    "yellow_flower": ("yellow", "flower"),
}
NUM_SPLITS = 3


def ucf101_names(folder: str, videos_per_split: int) -> list[list[str]]:
    """Names of the test videos of each split, as in the lists: v_Growing_g01_c01.avi. A split has one group."""
    return [
        [f"v_{folder}_g{split + 1:02d}_c{number + 1:02d}.avi" for number in range(videos_per_split)]
        for split in range(NUM_SPLITS)
    ]


def hmdb51_names(folder: str, videos_per_split: int) -> list[list[str]]:
    """Names of the test videos of each split, as in the lists."""
    return [
        [f"rendered_{folder}_{split * videos_per_split + number}.avi" for number in range(videos_per_split)]
        for split in range(NUM_SPLITS)
    ]


def ucf101_files(videos_per_split: int) -> dict[str, str]:
    """The published files of UCF101: name -> text. The training videos of a split are the test videos of the others."""
    texts = {"classInd.txt": "".join(f"{number} {folder}\n" for number, folder in enumerate(UCF101, 1))}
    for split in range(NUM_SPLITS):
        test, train = "", ""
        for number, folder in enumerate(UCF101, 1):
            for other, names in enumerate(ucf101_names(folder, videos_per_split)):
                if other == split:
                    test += "".join(f"{folder}/{name}\n" for name in names)
                else:
                    train += "".join(f"{folder}/{name} {number}\n" for name in names)
        texts |= {f"testlist0{split + 1}.txt": test, f"trainlist0{split + 1}.txt": train}
    return texts


def hmdb51_files(videos_per_split: int) -> dict[str, str]:
    """The published files of HMDB51: name -> text. One training video of each split is in neither part (code 0)."""
    texts = {}
    for folder in HMDB51:
        all_names = hmdb51_names(folder, videos_per_split)
        for split in range(NUM_SPLITS):
            codes = {name: 2 if other == split else 1 for other, names in enumerate(all_names) for name in names}
            codes[all_names[split - 1][0]] = 0
            lines = (f"{name} {code} \n" for name, code in codes.items())
            texts[f"{folder}_test_split{split + 1}.txt"] = "".join(lines)
    return texts


def ucf101_clips(videos_per_split: int) -> list[Clip]:
    """One clip per listed video."""
    return [
        Clip(f"{folder}/{name.removesuffix('.avi')}.mp4", (Part(motion),))
        for folder, motion in UCF101.items()
        for names in ucf101_names(folder, videos_per_split)
        for name in names
    ]


def hmdb51_clips(videos_per_split: int) -> list[Clip]:
    """One clip per listed video. The motions take turns."""
    motions = list(scenes.MOTIONS)
    return [
        Clip(f"{folder}/{name.removesuffix('.avi')}.mp4", (Part(motions[number % len(motions)], look),))
        for folder, look in HMDB51.items()
        for number, name in enumerate(itertools.chain(*hmdb51_names(folder, videos_per_split)))
    ]
