"""Measures the input pipeline: clips per second from records, per stage, compared with decoding mp4 files.

    python -m scripts.bench_input [--videos DIR --records NAME@N] [--output DIR] [--clips 64] [--frames 16]

Without --videos, the script renders videos (300 frames, 340x256, H.264). Without --records, it builds records of the
videos with the defaults of `python -m dist_jax.build_records`. Records and videos use one worker per core. The
comparison ends with the decoded uint8 pixels of a training clip, before resizing. From records, only the crop is
decoded; from videos, whole frames, because video decoders cannot crop. At the end, the script measures each stage of a
training clip, and the whole input pipeline. CPU time per clip depends less on other load than clips per second: a
machine without other load reads (number of cores / CPU time) clips per second. The last line is in the unit of
`dist_jax.plan`: JPEG frames per second of one vCPU, for the whole pipeline. Two ways to decode videos are measured:

- All frames become RGB, then 16 are chosen (torchvision.io.read_video, PySlowFast, pytorchvideo).
- Frames are decoded up to the last chosen one, and only the chosen ones become RGB (as decord does). decord itself is
  measured as well if it is installed: pip install decord.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from dist_jax.files import user_path

if TYPE_CHECKING:  # the worker processes that decode videos must not import TensorFlow
    from dist_jax.data.source import Source

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
    parser.add_argument("--clips", type=int, default=64, help="number of measured clips (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="T (default: %(default)s)")
    parser.add_argument("--resolution", type=int, default=224, help="H = W (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.output or temporary)
        videos = Path(args.videos) if args.videos else render(folder / "videos")
        records = args.records or build(videos, folder)
        paths = sorted(str(path) for path in videos.rglob("*.mp4"))
        num_workers = os.cpu_count() or 1
        print(f"{args.frames} frames per clip, {num_workers} cores, {len(paths)} videos\n")
        limit_tensorflow_threads()
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


def limit_tensorflow_threads() -> None:
    """One thread per operation, as in the input pipeline, which runs several clips in parallel."""
    from dist_jax.data import tf  # dist_jax.data hides TensorFlow's start-up messages

    tf.config.threading.set_intra_op_parallelism_threads(1)


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
    first, later = (record_rate(source, clip_frames, 8 * num_clips, num_workers) for source in open_sources(records))
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


def open_sources(records: str) -> tuple["Source", "Source"]:
    """Two sources of the records: whole records, as in the first epoch; and the source that later epochs use.

    They are the same unless the records are large and local.
    """
    from dist_jax.data import encoded_clips, frame_reader, record_source
    from dist_jax.data.record_index import load_index
    from dist_jax.data.records import LABEL

    index = load_index(records)
    whole = encoded_clips.encoded_source(index, encoded_clips.record_parser({"label": LABEL}), {"label": 1})
    if not record_source.has_large_records(index):
        return whole, whole
    return whole, frame_reader.open_source(index, {"label": LABEL}, {"label": 1})


def record_rate(source: "Source", clip_frames: int, num_clips: int, num_workers: int) -> Rate:
    """Rate of reading records and decoding the crops of training clips."""
    import tensorflow as tf

    from dist_jax.data import sampling, transforms

    def decode(record: tf.Tensor) -> tf.Tensor:
        features = source.read(record % source.size) | {"seed": tf.stack([record, record])}
        features = sampling.random_segments(features, clip_frames)
        features = transforms.random_resized_crop(features, (0.4, 1.0), (0.75, 4 / 3))
        return tf.size(source.decode(features)["video"])

    options = tf.data.Options()
    options.threading.private_threadpool_size = num_workers
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.range(2**40).map(decode, num_parallel_calls=num_workers).with_options(options)
    iterator = iter(dataset)
    for _ in range(source.size):  # the first epoch
        next(iterator)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(num_clips):
        next(iterator)
    return Rate(num_clips / (time.perf_counter() - start), (time.process_time() - cpu_start) / num_clips * 1000)


def measure_stages(records: str, clip_frames: int, resolution: int, num_clips: int) -> None:
    """Prints the CPU time of each stage of a training clip, and the clips/s of the whole pipeline."""
    import jax
    import tensorflow as tf

    from dist_jax.data import encoded_clips, sampling, transforms
    from dist_jax.data.record_index import load_index
    from dist_jax.data.records import LABEL

    whole, source = open_sources(records)
    parse = encoded_clips.record_parser({"label": LABEL})
    read = encoded_clips.indexed_reader(load_index(records))

    def sample_and_crop(features: dict, record: tf.Tensor) -> dict:
        features = sampling.random_segments(features | {"seed": tf.stack([record, record])}, clip_frames)
        return transforms.random_resized_crop(features, (0.4, 1.0), (0.75, 4 / 3))

    def finish(features: dict, record: tf.Tensor) -> dict:
        del record  # the seed is in the features
        features = transforms.random_flip(features | {"labels": {"label": tf.constant(0)}}, 0.5, {})
        return transforms.resize(features, tf.range(clip_frames), resolution, resolution)

    numbers = [tf.constant(i, tf.int64) for i in range(num_clips)]
    states = [number % source.size for number in numbers]
    serialized, read_ms = run_stage(lambda record, number: read(record), states, numbers)
    _, parse_ms = run_stage(lambda data, number: parse(data), serialized, numbers)
    rows = [("first epoch: read, verify", read_ms), ("first epoch: parse", parse_ms)]
    if source is whole:
        states = [parse(data) for data in serialized]
    else:
        run_stage(lambda record, number: source.read(record), states, numbers)  # the first epoch
        states, find_ms = run_stage(lambda record, number: source.read(record), states, numbers)
        rows.append(("later epochs: find the frames", find_ms))
    stages = {
        "choose frames and crop": sample_and_crop,
        "decode" if source is whole else "read the frames, decode": lambda features, number: source.decode(features),
        "resize, flip": finish,
    }
    for name, stage in stages.items():
        states, milliseconds = run_stage(stage, states, numbers)
        rows.append((name, milliseconds))
    videos = [state["video"].numpy() for state in states]
    start = time.process_time()
    batches = [np.stack(videos[first : first + BATCH_SIZE]) for first in range(0, num_clips, BATCH_SIZE)]
    rows.append(("batch", (time.process_time() - start) / num_clips * 1000))
    start = time.process_time()
    jax.block_until_ready(jax.device_put(batches))
    rows.append(("transfer", (time.process_time() - start) / num_clips * 1000))
    print("\nstage of a training clip                     CPU ms/clip")
    for name, milliseconds in rows:
        print(f"{name:42} {milliseconds:9.2f}")
    rate = training_rate(records, clip_frames, resolution, num_clips)
    print("\nwhole input pipeline, all cores              clips/s  CPU ms/clip")
    print(f"{'training clips':42} {rate.clips_per_second:9.1f} {rate.cpu_ms:12.2f}")
    frames_per_second = clip_frames / rate.cpu_ms * 1000
    print(f"\none vCPU decodes {frames_per_second:.0f} JPEG frames/s; `dist_jax.plan` prints how many it must decode")


def run_stage(stage: Callable, states: list, numbers: list) -> tuple[list, float]:
    """Runs a stage twice on every input. Returns its outputs, and the CPU milliseconds per input of the second run."""
    import tensorflow as tf

    compiled = tf.function(stage, autograph=False, reduce_retracing=True)
    outputs = [compiled(state, number) for state, number in zip(states, numbers, strict=True)]
    start = time.process_time()
    for state, number in zip(states, numbers, strict=True):
        compiled(state, number)  # discard the output: allocating new memory for each would dominate
    return outputs, (time.process_time() - start) / len(states) * 1000


def training_rate(records: str, clip_frames: int, resolution: int, num_clips: int) -> Rate:
    """Rate of the training pipeline, without the first epoch."""
    from dist_jax import config as settings
    from dist_jax.data import pipeline

    config = settings.defaults()
    config.model.num_frames, config.batch_size, config.mix.group_size = clip_frames, BATCH_SIZE, BATCH_SIZE
    source = open_sources(records)[1]
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
    main()
