"""Measures the input pipeline: clips per second from records, per stage, compared with decoding mp4 files.

    python -m scripts.bench_input [--videos DIR --records NAME@N] [--output DIR] [--clips 64] [--frames 16] \\
        [--resolution 224]

Without --videos, the script renders videos (300 frames, 340x256, H.264). Without --records, it builds records of the
videos with `python -m dist_jax.build_records` (two shards). Records and videos use one worker per core. The
comparison ends with the decoded uint8 pixels of a training clip, before resizing. At the end, the script measures each
stage of a training clip, and the whole input pipeline. CPU time per clip depends less on other load than clips per
second: a machine without other load reads (number of cores / CPU time) clips per second. The last line is in the unit
of `dist_jax.plan`: JPEG frames per second of one vCPU, for the whole pipeline. Two ways to decode videos are measured:

- All frames become RGB, then 16 are chosen (torchvision.io.read_video, PySlowFast, pytorchvideo).
- Frames are decoded up to the last chosen one, and only the chosen ones become RGB (as decord does). decord itself is
  measured as well if it is installed: pip install decord.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from dist_jax.errors import UserError, exit_with_message
from dist_jax.files import user_path

if TYPE_CHECKING:  # the worker processes that decode videos must not import TensorFlow
    from dist_jax.data.source import Source, StoredClip

NUM_FRAMES, WIDTH, HEIGHT, FPS = 300, 340, 256, 30  # of the rendered videos
BATCH_SIZE = 8


def main() -> None:
    """Parses the flags, prepares videos and records, and prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=user_path, default="", help="folder of mp4 files (default: rendered videos)")
    parser.add_argument(
        "--records", type=user_path, default="", help="records, as in data.train (default: built from the videos)"
    )
    parser.add_argument(
        "--output",
        type=user_path,
        default="",
        help="folder of rendered videos and records (default: a temporary folder)",
    )
    parser.add_argument(
        "--clips",
        type=int,
        default=64,
        help="number of measured clips; 8 times as many of the whole pipeline (default: %(default)s)",
    )
    parser.add_argument("--frames", type=int, default=16, help="T (default: %(default)s)")
    parser.add_argument("--resolution", type=int, default=224, help="H = W (default: %(default)s)")
    args = parser.parse_args()
    from dist_jax.data import num_cores  # not above: see TYPE_CHECKING

    if args.clips < BATCH_SIZE:
        parser.error(f"--clips={args.clips}: must be at least {BATCH_SIZE}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.output or temporary)
        videos = Path(args.videos) if args.videos else render(folder / "videos")
        records = args.records or build(videos, folder)
        paths = sorted(str(path) for path in videos.rglob("*.mp4"))
        if not paths:
            raise UserError(f"--videos={videos}: no .mp4 file in this folder")
        num_workers = num_cores()
        print(f"{args.frames} frames per clip, {num_workers} cores, {len(paths)} videos\n")
        compare_with_videos(records, paths, args.frames, args.clips, num_workers)
        measure_stages(records, args.frames, args.resolution, args.clips)


def render(folder: Path, num_videos: int = 8) -> Path:
    """Renders videos of a moving camera over a textured plane, with moving shapes and sensor noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_videos):
        rng = np.random.default_rng(number)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for frame in scene(rng):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
    return folder


def scene(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames of one video, uint8 [HEIGHT, WIDTH, 3]."""
    plane = texture(rng, 640)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    phase, speed = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.01, 0.05, 4)
    colors = rng.integers(0, 256, (2, 3))
    for t in range(NUM_FRAMES):
        top, left = (np.sin(phase[:2] + speed[:2] * t) * 140 + 150).astype(int)
        picture = plane[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
        for shape, color in enumerate(colors):
            y, x = HEIGHT * (0.5 + 0.3 * np.sin(phase[2:] + (shape + 1) * speed[2:] * t))
            picture[(rows - y) ** 2 + (columns - x) ** 2 < (20 + 15 * shape) ** 2] = color
        noise = rng.normal(0, 1, (HEIGHT, WIDTH, 1))
        yield np.clip(picture + noise, 0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """An image that compresses like a photograph (29 kB at 340x256, JPEG quality 90): uint8 [size, size, 3]."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    spectrum = np.fft.fft2(rng.normal(size=(3, size, size))) / np.maximum(frequency, 1 / size) ** 1.3
    spectrum[1:] = 0.3 * spectrum[1:] + 0.7 * spectrum[:1]  # the channels of a photograph are correlated
    plane = np.moveaxis(np.fft.ifft2(spectrum).real, 0, -1)
    return np.clip(128 + 45 * (plane - plane.mean()) / plane.std(), 0, 255).astype(np.uint8)


def build(videos: Path, folder: Path) -> str:
    """Builds records of all videos with dist_jax.build_records. Returns the pattern of the shards."""
    from dist_jax.build_records import command

    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(path.relative_to(videos) for path in videos.rglob("*.mp4"))
    (folder / "list.txt").write_text("".join(f"{name} clip\n" for name in names))
    arguments = ["--videos", str(videos), "--list", str(folder / "list.txt"), "--output", str(folder / "records")]
    command.main([*arguments, "--shards", "2"])
    return str(folder / "records" / "train@2")


def random_segments(num_frames: int, clip_frames: int, seed: int) -> np.ndarray:
    """One random frame in each of `clip_frames` equal segments: int [clip_frames]."""
    draws = np.random.default_rng(seed).random(clip_frames)
    points = (np.arange(clip_frames) + draws) * num_frames / clip_frames
    return np.minimum(np.round(points).astype(int), num_frames - 1)


def decode_all(path: str, clip_frames: int, seed: int) -> np.ndarray:
    """Converts all frames to RGB, then selects the chosen ones."""
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return frames[random_segments(len(frames), clip_frames, seed)]


def decode_chosen(path: str, clip_frames: int, seed: int) -> np.ndarray:
    """Decodes up to the last chosen frame and converts only the chosen frames to RGB."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        indices = random_segments(stream.frames, clip_frames, seed).tolist()
        frames = {}
        for number, frame in enumerate(container.decode(stream)):
            if number in indices:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number == indices[-1]:
                break
    return np.stack([frames[number] for number in indices])


def decode_decord(path: str, clip_frames: int, seed: int) -> np.ndarray:
    """As decode_chosen, with decord."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    return reader.get_batch(random_segments(len(reader), clip_frames, seed).tolist()).asnumpy()


@dataclasses.dataclass(frozen=True)
class Rate:
    """Speed and cost of one way to read clips."""

    clips_per_second: float  # on all cores
    cpu_ms: float  # CPU time per clip; less sensitive to other load on the machine


def compare_with_videos(records: str, paths: list[str], clip_frames: int, num_clips: int, num_workers: int) -> None:
    """Prints clips/s of reading and decoding from videos and from records, and the speed-up of records."""
    decoders = {
        "mp4, PyAV, all frames to RGB": decode_all,
        "mp4, PyAV, only the chosen frames to RGB": decode_chosen,
    }
    if importlib.util.find_spec("decord"):
        decoders["mp4, decord, only the chosen frames to RGB"] = decode_decord
    videos = {name: video_rate(decode, paths, clip_frames, num_clips, num_workers) for name, decode in decoders.items()}
    first = record_rate(records, clip_frames, 8 * num_clips, num_workers, is_first_read=True)
    later = record_rate(records, clip_frames, 8 * num_clips, num_workers, is_first_read=False)
    rates = {**videos, "records, first epoch (checksums verified)": first, "records, later epochs": later}
    print("reading and decoding, all cores              clips/s  CPU ms/clip")
    for name, rate in rates.items():
        print(f"{name:42} {rate.clips_per_second:9.1f} {rate.cpu_ms:12.2f}")
    print("\nspeed-up of records, later epochs, over            in clips/s  in CPU time")
    for name, rate in videos.items():
        by_rate, by_cpu = later.clips_per_second / rate.clips_per_second, rate.cpu_ms / later.cpu_ms
        print(f"{name:50} {by_rate:10.1f} {by_cpu:12.1f}")


def video_rate(decode: Callable, paths: list[str], clip_frames: int, num_clips: int, num_workers: int) -> Rate:
    """Rate of decoding videos in worker processes, like a PyTorch DataLoader."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        jobs = [(decode, paths[i % len(paths)], clip_frames, i) for i in range(num_clips)]
        list(pool.map(_cpu_seconds, jobs[:num_workers]))  # starts the workers
        start = time.perf_counter()
        cpu_seconds = sum(pool.map(_cpu_seconds, jobs))
        return Rate(num_clips / (time.perf_counter() - start), cpu_seconds / num_clips * 1000)


def _cpu_seconds(job: tuple[Callable, str, int, int]) -> float:
    decode, *arguments = job
    start = time.process_time()
    decode(*arguments)
    return time.process_time() - start


def open_records(records: str) -> "Source":
    """The clips of the records. A record is read completely, and verified, when it is read for the first time."""
    from dist_jax.data import encoded_clips
    from dist_jax.data.record_index import load_index
    from dist_jax.data.records import LABEL

    return encoded_clips.sequence_source(load_index(records), {"label": LABEL}, {"label": 2**31})  # any class number


def choose(clip: "StoredClip", clip_frames: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and window of a training clip."""
    from dist_jax.data import sampling, transforms

    rng = np.random.default_rng(number)
    indices = sampling.random_segments(clip.num_frames, clip_frames, rng)
    return indices, transforms.random_resized_crop(clip.height, clip.width, (0.4, 1.0), (0.75, 4 / 3), rng)


def record_rate(records: str, clip_frames: int, num_clips: int, num_workers: int, is_first_read: bool) -> Rate:
    """Rate of reading records and decoding the crops of training clips, of at most 64 different records."""
    source = open_records(records)
    num_records = min(source.size, 64)

    def decode(number: int) -> None:
        clip = source.read(number % num_records)
        np.stack([frame.copy() for frame in clip.frames(*choose(clip, clip_frames, number))])

    seconds = cpu_seconds = 0.0
    num_rounds = -(-num_clips // num_records)
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        list(pool.map(decode, range(num_records)))  # also starts the threads
        for first in range(0, num_rounds * num_records, num_records):
            source = open_records(records) if is_first_read else source
            start, cpu_start = time.perf_counter(), time.process_time()
            list(pool.map(decode, range(first, first + num_records)))
            seconds += time.perf_counter() - start
            cpu_seconds += time.process_time() - cpu_start
    num_clips = num_rounds * num_records
    return Rate(num_clips / seconds, cpu_seconds / num_clips * 1000)


def measure_stages(records: str, clip_frames: int, resolution: int, num_clips: int) -> None:
    """Prints the CPU time of each stage of a training clip, and the clips/s of the whole pipeline."""
    import jax

    from dist_jax.data import record_reader, sequence_example
    from dist_jax.data.record_index import load_index
    from dist_jax.video.resize import resize_bilinear

    source, index = open_records(records), load_index(records)
    num_records = min(source.size, num_clips)
    reader = record_reader.record_reader(index)

    def parse(data: memoryview) -> None:
        _, positions = sequence_example.parse(data)
        sequence_example.check_frames(data, positions)

    _, read_ms = run_stage(lambda number: len(reader.read(number)), range(num_records))
    _, read_and_parse_ms = run_stage(lambda number: parse(reader.read(number)), range(num_records))
    for number in range(num_records):
        source.read(number)  # for the first time
    clips = [source.read(number % num_records) for number in range(num_clips)]
    choices, choose_ms = run_stage(lambda number: choose(clips[number], clip_frames, number), range(num_clips))
    video = np.empty((BATCH_SIZE, clip_frames, resolution, resolution, 3), np.uint8)

    def read_frames(number: int) -> None:
        clips[number].frames(*choices[number])

    def decode(number: int) -> None:
        for _ in clips[number].frames(*choices[number]):
            pass

    def decode_and_resize(number: int) -> None:
        frames = clips[number].frames(*choices[number])
        resize_bilinear(frames, resolution, resolution, number % 2 == 0, out=video[number % BATCH_SIZE])

    _, read_frames_ms = run_stage(read_frames, range(num_clips))
    _, decode_ms = run_stage(decode, range(num_clips))
    _, decode_and_resize_ms = run_stage(decode_and_resize, range(num_clips))
    _, transfer_ms = run_stage(lambda _: jax.block_until_ready(jax.device_put(video)), range(num_clips // BATCH_SIZE))
    rows = {
        "first read: read, verify the checksum": read_ms,
        "first read: find and check the frames": read_and_parse_ms - read_ms,
        "later reads: read the chosen frames": read_frames_ms,
        "choose frames and crop": choose_ms,
        "decode": decode_ms - read_frames_ms,
        "resize, flip": decode_and_resize_ms - decode_ms,
        "transfer": transfer_ms / BATCH_SIZE,
    }
    print("\nstage of a training clip, one core           CPU ms/clip")
    for name, milliseconds in rows.items():
        print(f"{name:42} {milliseconds:9.2f}")
    rate = training_rate(records, clip_frames, resolution, 8 * num_clips)
    print("\nwhole input pipeline, all cores              clips/s  CPU ms/clip")
    print(f"{'training clips':42} {rate.clips_per_second:9.1f} {rate.cpu_ms:12.2f}")
    frames_per_second = clip_frames / rate.cpu_ms * 1000
    print(f"\none vCPU decodes {frames_per_second:.0f} JPEG frames/s; `dist_jax.plan` prints how many it must decode")


def run_stage(stage: Callable, inputs: Sequence) -> tuple[list, float]:
    """Runs a stage twice on every input. Returns its outputs, and the CPU milliseconds per input of the second run."""
    outputs = [stage(value) for value in inputs]
    start = time.process_time()
    for value in inputs:
        stage(value)
    return outputs, (time.process_time() - start) / len(inputs) * 1000


def training_rate(records: str, clip_frames: int, resolution: int, num_clips: int) -> Rate:
    """Rate of the training pipeline, of at most 64 different records, without the first epoch."""
    from dist_jax import config as settings
    from dist_jax.data import pipeline

    config = settings.defaults()
    config.model.num_frames, config.batch_size, config.mix.group_size = clip_frames, BATCH_SIZE, BATCH_SIZE
    source = open_records(records)
    source = dataclasses.replace(source, size=min(source.size, 64))
    batches = pipeline.train_batches(config, source, 0, slice(None), resolution)
    for _ in range(2 + source.size // BATCH_SIZE):  # the first epoch
        next(batches)
    num_batches = -(-num_clips // BATCH_SIZE)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(num_batches):
        next(batches)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    batches.close()
    return Rate(num_batches * BATCH_SIZE / seconds, cpu_seconds / (num_batches * BATCH_SIZE) * 1000)


if __name__ == "__main__":
    exit_with_message(main)
