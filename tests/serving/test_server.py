"""A real server on the loopback interface: many clients, broken requests, limits, files, memory; see conftest.py."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason='the server needs pip install "dist_jax[serve]"')

from helpers.small_models import CLASSES
from helpers.video_files import write_video
from helpers.web_server import encode_form, resident_memory

import dist_jax
from dist_jax import serve
from dist_jax.errors import UserError
from dist_jax.inference.video_classifier import classify_video
from dist_jax.serving.uploads import MAX_TEXT_BYTES

pytestmark = pytest.mark.xdist_group("serving")  # one server for all tests

NUM_REQUESTS, NUM_CLIENTS = 200, 8
MAX_GROWTH = 12_000_000  # bytes of resident memory during the requests; a leak of one video each would be more


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two files of different lengths."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{frames}.mp4", frames=frames, options={"crf": "40"}) for frames in (24, 40)]


@pytest.fixture(scope="module")
def contents(videos):
    """The bytes of the files."""
    return [Path(path).read_bytes() for path in videos]


LABELS = ("", "a fox, a hen", "a cow, a pig, a fox, a dog")


@pytest.fixture(scope="module")
def expected(videos, model_folder):
    """Probabilities by number of the video and labels, from `classify_video`."""
    model = dist_jax.load(model_folder)
    tables = {}
    for (number, path), labels in itertools.product(enumerate(videos), LABELS):
        names = labels.split(", ") if labels else CLASSES
        text = model.encode_classes(names) if labels else None
        tables[number, labels] = probabilities(classify_video(model, path, names, text, 10).as_dict())
    return tables


def probabilities(answer):
    return {one["label"]: one["probability"] for one in answer["predictions"]}


def classify(server, contents, expected, number):
    """A good request. Returns the largest error."""
    video, labels = number % 2, LABELS[number % len(LABELS)]
    answer = server.post("/api/classify", contents[video], labels=labels)
    assert answer.status == 200, answer.text
    actual, table = probabilities(answer.json()), expected[video, labels]
    assert actual.keys() == table.keys()
    return max(abs(actual[name] - table[name]) for name in table)


def hang_up(server, contents, number):
    """A client that closes the connection in the middle of the body, or before the answer."""
    body, headers = encode_form(contents[0])
    length = len(body) // 2 if number % 2 else len(body)
    server.begin("/api/classify", body[:length], len(body), headers).close()


def send(server, contents, expected, number):
    """One of the requests of a mix: 7 of 10 are good."""
    kind = number % 10
    if kind == 7:
        hang_up(server, contents, number // 10)
    elif kind == 8:
        assert server.post("/api/classify", b"no video").status == 400
    elif kind == 9:
        assert server.post("/api/classify", bytes(120_000)).status == 413
    else:
        return classify(server, contents, expected, number)
    return 0.0


def test_many_clients_get_the_probabilities_of_classify_video(server, contents, expected):
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        list(clients.map(lambda number: send(server, contents, expected, number), range(50)))  # allocators fill up
        before = resident_memory(server.process)
        errors = list(clients.map(lambda number: send(server, contents, expected, number), range(NUM_REQUESTS)))
    assert max(errors) < 1e-5
    assert resident_memory(server.process) - before < MAX_GROWTH
    server.wait_until(lambda: not server.uploads())
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("path", "fields", "status", "message"),
    [
        ("/api/classify", {}, 400, "the field video has no file; for example: curl -F video=@FILE URL"),
        ("/api/classify", {"labels": "a,,b"}, 400, "labels 'a,,b': names must be unique and not empty"),
        ("/api/classify", {"lables": "a"}, 400, "unknown field 'lables'; the fields are video, labels, top, pictures"),
        ("/api/classify", {"labels": "x" * (MAX_TEXT_BYTES + 1)}, 413, "the text fields have more than 64 kB"),
        ("/api/timeline", {"window": "9"}, 400, "a window of 9 s is longer than the video (2.000 s)"),
        ("/page/classify", {"top": "1"}, 400, "pictures is missing: /page/... needs pictures=true"),
        ("/page/timeline", {"overlap": "x"}, 400, "overlap 'x': must be a whole number"),
        ("/api/video", {}, 404, "no POST /api/video; there are GET /api/model, POST /api/classify, POST /api/timeline"),
    ],
)
def test_invalid_requests_get_one_line_of_json(server, contents, path, fields, status, message):
    answer = server.post(path, contents[1] if fields else None, **fields)
    assert (answer.status, answer.json()) == (status, {"error": message})


FORM = "multipart/form-data; boundary=B"
PART = b'--B\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\nx'


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"x", "text/plain"),
        (b"x", "multipart/form-data"),
        (b"no boundary", FORM),
        (PART, FORM),  # cut
        (PART + b"\r\n" + PART + b"\r\n--B--\r\n", FORM),  # two videos
        (PART.replace(b'"video"', b'"\xff"') + b"\r\n--B--\r\n", FORM),
    ],
)
def test_bodies_that_are_no_form_are_refused(server, body, content_type):
    answer = server.request("POST", "/api/classify", body, {"Content-Type": content_type})
    assert (answer.status, list(answer.json())) == (400, ["error"])


def test_long_videos_are_refused(server, tmp_path):
    path = write_video(tmp_path / "long.mp4", frames=42, rate=4, options={"crf": "40"})
    answer = server.post("/api/classify", Path(path).read_bytes())
    assert (answer.status, answer.json()["error"]) == (413, "the video has 10.5 s; at most 10 s are allowed: cut it")


def test_timelines_and_pictures_come_from_the_same_server(server, contents):
    answer = server.post("/api/timeline", contents[1], window="0.5", overlap="1", pictures="true")
    assert [window["end"] for window in answer.json()["windows"]] == [0.5, 1.0, 1.5, 2.0]
    assert answer.json()["pictures"]["timeline"].startswith("data:image/png")
    facts = server.request("GET", "/api/model").json()
    assert (facts["model"], facts["classes"], facts["labels"]) == ("model", list(CLASSES), "optional")


def test_a_full_queue_answers_503_and_then_recovers(server, contents, expected):
    body, headers = encode_form(contents[0])
    slow = [server.begin("/api/classify", body[:200], len(body), headers) for _ in range(12)]
    server.wait_until(lambda: len(server.uploads()) == 12)
    answer = server.post("/api/classify", contents[0])
    assert (answer.status, answer.headers.get("retry-after")) == (503, "5")
    assert answer.json()["error"] == "the server already has 12 requests; try again in some seconds"
    assert server.request("GET", "/api/model").status == 200
    for connection in slow[1:]:
        connection.close()
    slow[0].sendall(body[200:])  # a slow client gets its answer
    assert slow[0].recv(12) == b"HTTP/1.1 200"
    slow[0].close()
    server.wait_until(lambda: not server.uploads())
    assert classify(server, contents, expected, 0) < 1e-5


def test_gradio_only_delivers_the_page(server):
    page = server.request("GET", "/")
    assert (page.status, "classifyVideo" in page.text) == (200, True)
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for method, path in (("POST", "/gradio_api/upload"), ("GET", "/gradio_api/file=/etc/passwd"), ("POST", "/login")):
        assert server.request(method, path).status == 404, path


def test_a_port_in_use_is_one_line(server, model_folder):
    with pytest.raises(UserError, match=rf"--host 127.0.0.1 --port {server.port}: Address already in use; use another"):
        serve.main(["--model", model_folder, "--port", str(server.port)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "--port 99999: must be between 0 and 65535"),
        (["--host", "no.such.host.invalid"], r"--host no\.such\.host\.invalid --port 7860: "),
        (["--max-queue", "0"], "--max-queue 0: must be greater than 0"),
        (["--max-duration", "-1"], "--max-duration -1: must be greater than 0"),
        (["--max-duration", "inf"], "--max-duration inf: must be greater than 0 and finite"),
        (["--max-upload-mb", "nan"], "--max-upload-mb nan: must be greater than 0 and finite"),
    ],
)
def test_invalid_arguments_raise_an_error(model_folder, arguments, message):
    with pytest.raises(UserError, match=message):
        serve.main(["--model", model_folder, *arguments])


def test_without_gradio_the_command_says_what_to_install(model_folder, monkeypatch):
    monkeypatch.setattr(serve, "PACKAGES", ("gradio", "no_such_package"))
    with pytest.raises(UserError, match=r'^not installed: no_such_package; run: pip install "dist_jax\[serve\]"$'):
        serve.main(["--model", model_folder])
