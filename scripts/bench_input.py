"""How fast clips come out of records, stage by stage, beside decoding the same mp4 files for every clip.

    python -m scripts.bench_input [--videos DIR --records NAME@N] [--output DIR] [--clips 64] [--frames 16]

Without --videos it renders files of its own (300 frames, 340x256, H.264) and without --records it builds records of
the videos as `python -m dist_jax.build_records` does by default. Both sides use as many workers as there are cores, and
the comparison ends with the decoded pixels of a training clip as uint8, before resizing: of records only the crop's
window is decoded, of a video whole frames, because that is what each can do. Two ways of decoding videos are in
use in PyTorch pipelines: every frame becomes RGB and then 16 are chosen (torchvision.io.read_video, PySlowFast,
pytorchvideo), or frames are decoded up to the last one wanted and only the chosen ones become RGB (decord, which is
measured as well where it is installed: pip install decord).
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

if TYPE_CHECKING:  # TensorFlow is for the process that reads records, not for the workers that decode videos
    from dist_jax.data.sources import Source

FRAMES, WIDTH, HEIGHT, RATE = 300, 340, 256, 30  # of the rendered videos


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", default="", help="folder of mp4 files; default: rendered")
    parser.add_argument(
        "--records", default="", help="records, as data.train takes them; default: built from the videos"
    )
    parser.add_argument(
        "--output", default="", help="where rendered videos and records go; default: a temporary folder"
    )
    parser.add_argument("--clips", type=int, default=64, help="clips to measure with (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="T (default: %(default)s)")
    parser.add_argument("--resolution", type=int, default=224, help="H = W (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.output or temporary)
        videos = Path(args.videos) if args.videos else render(folder / "videos")
        records = args.records or build(videos, folder)
        paths = sorted(str(path) for path in videos.rglob("*.mp4"))
        workers = os.cpu_count()
        print(f"{args.frames} frames a clip, {workers} cores, {len(paths)} videos\n")
        one_thread_an_operation()
        compare(records, paths, args.frames, args.clips, workers)
        stages(records, args.frames, args.resolution, args.clips)


def render(folder: Path, count: int = 8) -> Path:
    """Videos of a moving camera over a textured plane with moving shapes and sensor noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture in scene(rng):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
    return folder


def scene(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames of one video, uint8 [HEIGHT, WIDTH, 3]."""
    plane = texture(rng, 640)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    phase, speed = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.01, 0.05, 4)
    colors = rng.integers(0, 256, (2, 3))
    for t in range(FRAMES):
        top, left = (np.sin(phase[:2] + speed[:2] * t) * 140 + 150).astype(int)
        picture = plane[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
        for shape, color in enumerate(colors):
            y, x = HEIGHT * (0.5 + 0.3 * np.sin(phase[2:] + (shape + 1) * speed[2:] * t))
            picture[(rows - y) ** 2 + (columns - x) ** 2 < (20 + 15 * shape) ** 2] = color
        noise = rng.normal(0, 1, (HEIGHT, WIDTH, 1))
        yield np.clip(picture + noise, 0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A picture as hard to compress as a photograph (29 kB at 340x256, JPEG quality 90): uint8 [size, size, 3]."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    spectrum = np.fft.fft2(rng.normal(size=(3, size, size))) / np.maximum(frequency, 1 / size) ** 1.3
    spectrum[1:] = 0.3 * spectrum[1:] + 0.7 * spectrum[:1]  # the channels of a photograph resemble one another
    plane = np.moveaxis(np.fft.ifft2(spectrum).real, 0, -1)
    return np.clip(128 + 45 * (plane - plane.mean()) / plane.std(), 0, 255).astype(np.uint8)


def build(videos: Path, folder: Path) -> str:
    """Records of all the videos, by the project's own program."""
    from dist_jax.build_records import command

    names = sorted(path.relative_to(videos) for path in videos.rglob("*.mp4"))
    (folder / "list.txt").write_text("".join(f"{name} clip\n" for name in names))
    arguments = ["--videos", str(videos), "--list", str(folder / "list.txt"), "--output", str(folder / "records")]
    command.main([*arguments, "--shards", "2"])
    return str(folder / "records" / "train@2")


def choose(count: int, frames: int, clip: int) -> np.ndarray:
    """One random frame in each of so many equal parts."""
    draws = np.random.default_rng(clip).random(frames)
    return np.minimum(np.round((np.arange(frames) + draws) * count / frames).astype(int), count - 1)


def decode_every(path: str, frames: int, clip: int) -> np.ndarray:
    """All frames to one array of RGB, then the chosen ones."""
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        everything = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return everything[choose(len(everything), frames, clip)]


def decode_chosen(path: str, frames: int, clip: int) -> np.ndarray:
    """Decodes up to the last chosen frame; only the chosen ones become RGB."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = choose(stream.frames, frames, clip).tolist()
        found = {}
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number == wanted[-1]:
                break
    return np.stack([found[i] for i in wanted])


def decode_decord(path: str, frames: int, clip: int) -> np.ndarray:
    """As decode_chosen, by decord."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    return reader.get_batch(choose(len(reader), frames, clip).tolist()).asnumpy()


def one_thread_an_operation() -> None:
    """As the input pipeline runs them: clips side by side, not the parts of one."""
    from dist_jax.data import tf  # which quietens TensorFlow before it imports it

    tf.config.threading.set_intra_op_parallelism_threads(1)


@dataclasses.dataclass(frozen=True)
class Rate:
    """What a way of reading takes."""

    clips_per_second: float  # on all cores
    cpu_ms: float  # processor time of a clip, which a busy machine distorts least


def compare(records: str, paths: list[str], frames: int, clips: int, workers: int) -> None:
    """Prints clips/s of reading and decoding, from videos and from records, and how many times as fast records are."""
    ways = {
        "mp4, PyAV, every frame to RGB": decode_every,
        "mp4, PyAV, only the chosen frames to RGB": decode_chosen,
    }
    if importlib.util.find_spec("decord"):
        ways["mp4, decord, only the chosen frames to RGB"] = decode_decord
    videos = {text: video_rate(decode, paths, frames, clips, workers) for text, decode in ways.items()}
    first, later = (record_rate(source, frames, 8 * clips, workers) for source in open_sources(records))
    rates = {**videos, "records, first epoch (checksums verified)": first, "records, later epochs": later}
    print("reading and decoding, all cores              clips/s  CPU ms/clip")
    for text, rate in rates.items():
        print(f"{text:42} {rate.clips_per_second:9.1f} {rate.cpu_ms:12.2f}")
    print("\nrecords, later epochs, are so many times as fast   by clips/s  by CPU time")
    for text, rate in videos.items():
        by_rate, by_cpu = later.clips_per_second / rate.clips_per_second, rate.cpu_ms / later.cpu_ms
        print(f"{'as ' + text:50} {by_rate:10.1f} {by_cpu:12.1f}")


def video_rate(decode: Callable, paths: list[str], frames: int, clips: int, workers: int) -> Rate:
    """Of decoding videos in as many processes, as the workers of a PyTorch DataLoader do."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [(decode, paths[i % len(paths)], frames, i) for i in range(clips)]
        list(pool.map(_cpu_seconds, jobs[:workers]))  # the workers have started
        begin = time.perf_counter()
        cpu = sum(pool.map(_cpu_seconds, jobs))
        return Rate(clips / (time.perf_counter() - begin), cpu / clips * 1000)


def _cpu_seconds(job: tuple[Callable, str, int, int]) -> float:
    decode, *arguments = job
    begin = time.process_time()
    decode(*arguments)
    return time.process_time() - begin


def open_sources(records: str) -> tuple["Source", "Source"]:
    """The records read as in the first epoch, whole, and as in later ones, if they are local and large."""
    from dist_jax.data import encoded_clips, frame_reader, record_source
    from dist_jax.data.record_index import load_index
    from dist_jax.data.records import LABEL

    index = load_index(records)
    whole = encoded_clips.encoded_source(index, encoded_clips.record_parser(LABEL), classes=1)
    return whole, frame_reader.open_source(index, LABEL, classes=1) if record_source.is_large(index) else whole


def record_rate(source: "Source", frames: int, clips: int, workers: int) -> Rate:
    """Of reading the records and decoding the crops of training clips."""
    import tensorflow as tf

    from dist_jax.data import sampling, transforms

    def decode(record: tf.Tensor) -> tf.Tensor:
        features = source.read(record % source.size) | {"seed": tf.stack([record, record])}
        features = transforms.random_resized_crop(sampling.random_segments(features, frames), (0.4, 1.0), (0.75, 4 / 3))
        return tf.size(source.decode(features)["video"])

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.range(2**40).map(decode, num_parallel_calls=workers).with_options(options)
    iterator = iter(dataset)
    for _ in range(source.size):  # as in the first epoch
        next(iterator)
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(clips):
        next(iterator)
    return Rate(clips / (time.perf_counter() - begin), (time.process_time() - cpu) / clips * 1000)


def stages(records: str, frames: int, resolution: int, clips: int) -> None:
    """Prints what each stage of a training clip takes, and what all cores make together."""
    import jax
    import tensorflow as tf

    from dist_jax.data import encoded_clips, sampling, transforms
    from dist_jax.data.record_index import load_index
    from dist_jax.data.records import LABEL

    whole, source = open_sources(records)
    parse = encoded_clips.record_parser(LABEL)
    read = encoded_clips.indexed_reader(load_index(records))

    def choose_clip(features: dict, record: tf.Tensor) -> dict:
        features = sampling.random_segments(features | {"seed": tf.stack([record, record])}, frames)
        return transforms.random_resized_crop(features, (0.4, 1.0), (0.75, 4 / 3))

    def finish(features: dict, record: tf.Tensor) -> dict:
        del record  # what is drawn comes from the seed that choose_clip has added
        features = features | {"label": tf.constant(0)}
        return transforms.random_flip(transforms.resize(features, resolution, resolution), 0.5)

    numbers = [tf.constant(i, tf.int64) for i in range(clips)]
    states = [number % source.size for number in numbers]
    serialized, reading = timed(lambda record, number: read(record), states, numbers)
    _, parsing = timed(lambda data, number: parse(data), serialized, numbers)
    rows = [("first epoch: read, verify", reading), ("first epoch: parse", parsing)]
    if source is whole:
        states = [parse(data) for data in serialized]
    else:
        timed(lambda record, number: source.read(record), states, numbers)
        states, finding = timed(lambda record, number: source.read(record), states, numbers)
        rows.append(("later epochs: find the frames", finding))
    for name, stage in (
        ("choose frames and crop", choose_clip),
        (
            "read the frames, decode" if source is not whole else "decode",
            lambda features, number: source.decode(features),
        ),
        ("resize, flip", finish),
    ):
        states, milliseconds = timed(stage, states, numbers)
        rows.append((name, milliseconds))
    videos = [state["video"].numpy() for state in states]
    begin = time.perf_counter()
    batch = np.stack(videos)
    rows.append(("batch", (time.perf_counter() - begin) / clips * 1000))
    begin = time.perf_counter()
    jax.block_until_ready(jax.device_put(batch))
    rows.append(("transfer", (time.perf_counter() - begin) / clips * 1000))
    print("\nstage of a training clip                     CPU ms/clip")
    for name, milliseconds in rows:
        print(f"{name:42} {milliseconds:9.2f}")
    rate = training_rate(records, frames, resolution, clips)
    print(f"{'training clips, all cores':42} {rate:9.1f} clips/s")


def timed(stage: Callable, states: list, numbers: list) -> tuple[list, float]:
    """The stage's outputs and its milliseconds of processor time for each input, in a second run."""
    import tensorflow as tf

    compiled = tf.function(stage, autograph=False, reduce_retracing=True)
    outputs = [compiled(state, number) for state, number in zip(states, numbers, strict=True)]
    begin = time.process_time()
    for state, number in zip(states, numbers, strict=True):
        compiled(state, number)  # not kept: fresh memory for each would take longer than the work
    return outputs, (time.process_time() - begin) / len(states) * 1000


def training_rate(records: str, frames: int, resolution: int, clips: int) -> float:
    """Clips/s of the pipeline that a run uses."""
    from dist_jax import config as settings
    from dist_jax.data import pipeline

    config = settings.defaults()
    config.model.num_frames, config.batch_size, config.mix.group_size = frames, 8, 8
    source = open_sources(records)[1]
    batches = pipeline.train_batches(config, source, 0, slice(None), resolution)
    for _ in range(2 + source.size // 8):  # as in the first epoch
        next(batches)
    begin = time.perf_counter()
    for _ in range(clips // 8):
        next(batches)
    return clips // 8 * 8 / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
