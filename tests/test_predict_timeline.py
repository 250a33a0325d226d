"""Tests of dist_jax.predict --timeline and --live: outputs, segments, streams over loopback, bad input."""

import contextlib
import csv
import http.server
import itertools
import json
import os
import threading
import time
import types
from fractions import Fraction

import av
import matplotlib.image
import numpy as np
import pytest
from helpers import small_models
from helpers.numbered_videos import write_numbered
from helpers.small_models import CLASSES
from matplotlib.figure import Figure

import dist_jax
from dist_jax import convert, predict
from dist_jax.errors import UserError
from dist_jax.inference import frame_feed, times
from dist_jax.inference.frame_feed import FeedEnd, FrameFeed, FrameSettings
from dist_jax.inference.live import queue_length
from dist_jax.inference.segments import Segment, SegmentMerger
from dist_jax.inference.timeline import Window, WindowAssembler, classify_file, make_grid, make_store
from dist_jax.inference.timeline_plot import TimelinePlot
from dist_jax.inference.window_grid import WindowGrid
from dist_jax.video.container import decode_from
from dist_jax.video.opening import VideoError
from dist_jax.weights import model_directory

S = Fraction


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory `model`, and numbers.mp4 and numbers.ts with 60 frames at 25 frames per second."""
    folder = tmp_path_factory.mktemp("timeline")
    tokenizer = small_models.write_tokenizer(folder / "tokenizer")
    model_directory.write(folder / "model", convert.with_classes(small_models.model(tokenizer=tokenizer), CLASSES))
    for suffix in ("mp4", "ts"):
        write_numbered(folder / f"numbers.{suffix}")
    return folder


def run(folder, *arguments):
    predict.main(["--model", str(folder / "model"), *map(str, arguments)])


def expected_windows(folder, name="numbers.mp4", hop="1/2"):
    """Windows of 1 s."""
    model = dist_jax.load(folder / "model")
    return list(classify_file(model, str(folder / name), make_grid(model, S(1), S(hop))))


def test_all_outputs_have_the_windows_and_segments(folder, tmp_path, capsys):
    outputs = ["--csv", tmp_path / "o.csv", "--json", tmp_path / "o.json", "--plot", tmp_path / "o.png"]
    run(folder, "--video", folder / "numbers.mp4", "--timeline", "--window", "1s", "--hop", "500ms", *outputs)
    windows = expected_windows(folder)
    assert len(windows) == 3  # 0 to 1, 0.5 to 1.5, 1 to 2; the video ends at 2.4 s
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [(row["start"], row["end"]) for row in rows] == [("0", "1"), ("0.5", "1.5"), ("1", "2")]
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["classes"] == list(CLASSES)
    for window, row, entry in zip(windows, rows, document["windows"], strict=True):
        np.testing.assert_allclose([float(row[name]) for name in CLASSES], window.probabilities, atol=1e-5)
        np.testing.assert_allclose(entry["probabilities"], window.probabilities, atol=1e-5)
    segments = document["segments"]
    assert (segments[0]["start"], segments[-1]["end"]) == (0.0, 2.0)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(segments)
    first = segments[0]
    assert printed[0].split(maxsplit=4)[2:] == [f"{100 * first['probability']:.1f}", "%", first["label"]]
    assert matplotlib.image.imread(tmp_path / "o.png").shape[1] == 12 * 110


def test_a_tilde_in_the_name_of_the_table_is_the_home_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(folder, "--video", folder / "numbers.mp4", "--timeline", "--window", "1s", "--csv", "~/o.csv")
    assert (tmp_path / "o.csv").exists()


def windows_of(grid, labels):
    """Windows with the classes `labels`, each with probability 0.6, 0.7, 0.8, ..."""
    for j, label in enumerate(labels):
        probabilities = np.full(4, 0.05, np.float32)
        probabilities[label] = 0.6 + 0.1 * j
        yield Window(grid.start_of(j), grid.end_of(j), probabilities, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("hop", "expected"),
    [
        # Windows 0-4, 2-6, 4-8: the overlap 4 to 6 of the last two is divided at 5.
        (S(2), [(0, 5, 1), (5, 8, 2)]),
        (S(4), [(0, 8, 1), (8, 12, 2)]),
        (S(5), [(0, 9, 1), (10, 14, 2)]),  # a gap from 9 to 10 s
    ],
)
def test_segments_merge_windows_of_one_class_and_do_not_overlap(hop, expected):
    grid = WindowGrid(S(4), hop, 4, 2)
    merger = SegmentMerger(grid)
    found = [merger.add(window) for window in windows_of(grid, [1, 1, 2])]
    segments = [segment for segment in [*found, merger.finish()] if segment]
    assert [(s.start, s.end, s.label) for s in segments] == expected
    assert [s.num_windows for s in segments] == [2, 1]
    assert [s.probability for s in segments] == pytest.approx([0.65, 0.8])
    assert merger.finish() is None
    assert isinstance(segments[0], Segment)


def test_a_plot_averages_many_windows_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("dist_jax.inference.timeline_plot.MAX_COLUMNS", 4)
    grid = WindowGrid(S(2), S(1), 4, 2)
    plot = TimelinePlot(str(tmp_path / "o.png"), "a $ title", ["a $", "b", "c", "d"])
    for label in (0, 1):
        for window in itertools.islice(windows_of(grid, [label] * 10), 10):
            plot.add_window(window, 0)
    plot.finish()
    assert matplotlib.image.imread(tmp_path / "o.png").shape[1] == 12 * 110


def test_the_legend_of_a_plot_shows_every_name(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **options: figures.append(figure))
    plot = TimelinePlot(str(tmp_path / "o.png"), "a title", ["_hidden", "a $ b $", "c", "long_name_" * 4])
    for window in windows_of(WindowGrid(S(1), S(1), 4, 2), [0, 1, 2]):
        plot.add_window(window, 0)
    plot.finish()
    (legend,) = (axes.get_legend() for axes in figures[0].axes if axes.get_legend())
    names = {text.get_text() for text in legend.get_texts() if not text.get_parse_math()}
    assert names == {"_hidden", "a $ b $", "c", "long_name_long_name_long_n ..."}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("500ms", S(1, 2)),
        ("1.5", S(3, 2)),
        (".1s", S(1, 10)),
        ("2min", 120),
        ("1h", 3600),
        ("1:02:03.5", S(7447, 2)),
    ],
)
def test_times(text, seconds):
    assert times.parse_time("--window", text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "ten", "1 day", "1:2:3:4", "s", "nan"])
def test_other_times_are_refused(text):
    with pytest.raises(UserError, match=r"--hop .*: is not a time; write for example 10s"):
        times.parse_time("--hop", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, r"--window 9{40}\.\.\.: is not a time"),
        ("0:" + "9" * 5000, r"--window 0:9{38}\.\.\.: is not a time"),
        ("9" * 400 + "h", r"--window 9{40}\.\.\.: is not a time"),
        ("1000000001", r"--window 1000000001: must be at most 1,000,000,000 s"),
        ("300000h", r"--window 300000h: must be at most 1,000,000,000 s"),
    ],
)
def test_times_with_many_digits_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        times.parse_time("--window", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--video is missing"),
        (["--video", "a", "--hop", "1s"], "--hop needs --timeline or --live"),
        (["--video", "a", "--live", "-"], "--live - and --video a exclude each other"),
        (["--video", "a", "--video", "b", "--timeline"], "--timeline takes one --video, not 2"),
        (["--live", "-", "--timeline"], "--timeline and --live exclude each other"),
        (["--live", "-", "--plot", "o.png"], "--plot, --start and --end are for files"),
        (["--live", "-", "--csv", "-", "--json", "-"], "--csv - and --json - both write to standard output"),
        (["--video", "VIDEO", "--timeline"], "--window is missing: .* does not contain the length of its training"),
        (["--video", "VIDEO", "--timeline", "--window", "0s"], "--window is 0 s; must be greater than 0"),
        (["--video", "VIDEO", "--timeline", "--window", "1s", "--hop", "0"], "--hop is 0 s; must be greater than 0"),
        (["--video", "VIDEO", "--timeline", "--window", "1h"], "no window of 3600 s fits between 0 s and 2.4 s"),
        (
            ["--video", "VIDEO", "--timeline", "--window", "1s", "--end", "0.5"],
            "--end 0.5: the first window ends at 1 s",
        ),
        (
            ["--video", "VIDEO", "--timeline", "--window", "1s", "--start", "5s"],
            "no window of 1 s fits between 5 s and",
        ),
        (["--video", "VIDEO", "--timeline", "--window", "1s", "--csv", "no/o.csv"], "--csv no/o.csv: .*No such file"),
        (["--video", "VIDEO", "--timeline", "--window", "1s", "--labels", ""], "--labels '': names must be unique"),
        (["--live", "nowhere.ts", "--window", "1s"], "nowhere.ts: no such file"),
        (["--live", "-", "--window", "1s", "--timeout", "0"], "--timeout 0: must be greater than 0"),
    ],
)
def test_invalid_arguments_are_one_line(folder, arguments, message):
    arguments = [str(folder / "numbers.mp4") if argument == "VIDEO" else argument for argument in arguments]
    with pytest.raises(UserError, match=message) as error:
        run(folder, *arguments)
    assert "\n" not in str(error.value)


def write_sound(path):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(sound.encode(frame) + sound.encode())


def write_header_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("text.mp4", lambda path: path.write_text("no video"), "cannot be read"),
        ("empty.mp4", lambda path: path.write_text(""), "cannot be read"),
        ("sound.mp4", write_sound, "no video stream"),
        ("header.avi", write_header_only, "no frame can be decoded|cannot be read|no video stream"),
    ],
)
def test_files_without_frames_are_one_line(folder, tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(VideoError, match=rf"{name}: .*({message})") as error:
        run(folder, "--video", tmp_path / name, "--timeline", "--window", "1s")
    assert "\n" not in str(error.value)


def test_results_before_a_damage_are_written(folder, tmp_path, capsys):
    path = write_numbered(tmp_path / "cut.mp4", mux_options={"movflags": "faststart"})
    os.truncate(path, os.path.getsize(path) * 3 // 4)
    with pytest.raises(VideoError, match="is damaged after"):
        run(folder, "--video", path, "--timeline", "--window", "1s", "--hop", "0.1", "--json", tmp_path / "o.json")
    document = json.loads((tmp_path / "o.json").read_text())
    expected = expected_windows(folder, hop="1/10")[: len(document["windows"])]
    assert len(expected) >= 2
    np.testing.assert_allclose(
        [entry["probabilities"] for entry in document["windows"]], [w.probabilities for w in expected], atol=1e-5
    )
    assert document["segments"]
    assert capsys.readouterr().out


def test_a_single_label_has_probability_one(folder, capsys):
    run(folder, "--video", folder / "numbers.mp4", "--timeline", "--window", "1s", "--labels", "a dog")
    assert capsys.readouterr().out.split() == ["0:00:00.0", "0:00:02.4", "100.0", "%", "a", "dog"]


def test_the_default_window_of_a_converted_run_is_the_mean_length_of_its_training_clips(
    finished_run, folder, tmp_path, capsys
):
    workdir, _ = finished_run
    # 20 clips: 7 of 1 s, 7 of 1.1 s, 6 of 1.2 s.
    assert json.loads((workdir / "run.json").read_text())["clip_seconds"] == 1.095
    convert.main(["--input", str(workdir), "--output", str(tmp_path / "model")])
    assert dist_jax.load(tmp_path / "model").clip_seconds == 1.095
    capsys.readouterr()
    run(tmp_path, "--video", folder / "numbers.mp4", "--timeline", "--csv", "-")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert (rows[0]["end"], float(rows[1]["start"])) == ("1.095", pytest.approx(1.095 / 8))


# Live streams


@contextlib.contextmanager
def stdin_of(chunks):
    """Standard input from a thread that writes `chunks`; it then closes the pipe."""
    read_end, write_end = os.pipe()
    saved = os.dup(0)
    os.dup2(read_end, 0)

    def write():
        with contextlib.suppress(BrokenPipeError), os.fdopen(write_end, "wb", buffering=0) as file:
            for chunk in chunks:
                file.write(chunk)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read_end)
        thread.join(timeout=10)


@contextlib.contextmanager
def http_server(chunks):
    """A server on loopback that sends `chunks`; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for chunk in chunks:
                    self.wfile.write(chunk)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live.ts"
    finally:
        server.shutdown()
        server.server_close()


def check_lines(folder, lines):
    expected = expected_windows(folder, "numbers.ts")
    assert [(line["start"], line["end"]) for line in lines] == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)]
    for line, window in zip(lines, expected, strict=True):
        probabilities = {entry["label"]: entry["probability"] for entry in line["predictions"]}
        np.testing.assert_allclose([probabilities[name] for name in CLASSES], window.probabilities, atol=1e-5)
        assert line["dropped_frames"] == 0


LIVE = ("--window", "1s", "--hop", "0.5", "--json", "-")


def test_standard_input(folder, capsys):
    with stdin_of([(folder / "numbers.ts").read_bytes()]):
        run(folder, "--live", "-", *LIVE)
    captured = capsys.readouterr()
    check_lines(folder, [json.loads(line) for line in captured.out.splitlines()])
    assert "-: 3 windows; 0 frames dropped, 0 windows skipped" in captured.err


def test_http(folder, capsys):
    data = (folder / "numbers.ts").read_bytes()
    with http_server([data[: len(data) // 2], data[len(data) // 2 :]]) as url:
        run(folder, "--live", url, *LIVE)
    check_lines(folder, [json.loads(line) for line in capsys.readouterr().out.splitlines()])


@pytest.mark.slow
@pytest.mark.parametrize("connect", [stdin_of, http_server])
def test_a_stalled_stream_ends_after_the_timeout_and_keeps_its_lines(folder, capsys, connect):
    end = threading.Event()

    def chunks():
        yield (folder / "numbers.ts").read_bytes()
        end.wait(60)

    try:
        with connect(chunks()) as url, pytest.raises(VideoError, match="the stream has stalled"):
            run(folder, "--live", url or "-", *LIVE, "--timeout", "5s")
    finally:
        end.set()
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_a_closed_stream_without_a_window_is_an_error(folder):
    with stdin_of([b"no video"]), pytest.raises(VideoError, match="-: cannot be read"):
        run(folder, "--live", "-", "--window", "1s")


def test_a_line_per_window_has_the_best_classes(folder, capsys):
    run(folder, "--live", folder / "numbers.ts", "--window", "1s", "--hop", "0.5", "--top", "1")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["0:00:00.0", "0:00:01.0"],
        ["0:00:00.5", "0:00:01.5"],
        ["0:00:01.0", "0:00:02.0"],
    ]
    assert all(any(line.endswith(f"% {name}") for name in CLASSES) for line in lines)


def test_late_frames_are_dropped_and_counted_until_the_queue_is_empty(folder, monkeypatch):
    clock = itertools.count(0, 100)  # every look at the clock is 100 s later: the stream is always late
    monkeypatch.setattr(frame_feed, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    grid = WindowGrid(S(4, 100), S(4, 100), 4, 2)  # 60 windows in 2.4 s
    assert queue_length(grid) == 15  # three windows: twelve frames and three ends
    num_late = 60 * 4 - 12
    frames = decode_from(str(folder / "numbers.mp4"), None)
    with FrameFeed("x", frames, grid.points(), FrameSettings(8, True), queue_length(grid), drop=True) as feed:
        for _ in range(6000):  # the last points follow the end of the stream: read the queue after them
            if feed.num_dropped == num_late:
                break
            time.sleep(0.01)
        items = list(feed)
    assert isinstance(items[-1], FeedEnd)
    assert items[-1].error is None
    assert [item.point for item in items[:-1]] == list(grid.points(4))[:15]
    assert feed.num_dropped == num_late


def test_windows_without_dropped_frames_are_classified(folder):
    model = dist_jax.load(folder / "model")
    path = str(folder / "numbers.mp4")
    grid = make_grid(model, S(1), S(1, 2))
    feed = FrameFeed(path, decode_from(path, None), grid.points(), FrameSettings(8, True), 100)
    with feed:
        items = [item for item in feed if isinstance(item, FeedEnd) or not S(1, 8) <= item.point.time < S(1, 2)]
    windows = WindowAssembler(make_store(model, grid, None, 1, 2), grid)
    found = list(windows.classify(items))
    expected = expected_windows(folder)[1:]  # the first one lacks a frame
    assert [w.start for w in found] == [w.start for w in expected]
    np.testing.assert_allclose([w.probabilities for w in found], [w.probabilities for w in expected], atol=1e-6)
    assert (windows.num_classified, windows.num_skipped) == (2, 1)
