"""Tests of dist_jax.serving.classifier and answers: the results are those of the inference package."""

import dataclasses
import json
import threading
from fractions import Fraction

import jax
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import CLASSES
from helpers.video_files import write_video
from helpers.web_server import write_model

import dist_jax
from dist_jax.errors import UserError
from dist_jax.inference.timeline import classify_file, make_grid
from dist_jax.inference.video_classifier import classify_video
from dist_jax.serving import answers, fragments
from dist_jax.serving.answers import Upload
from dist_jax.serving.classifier import Classes, ServedModel
from dist_jax.serving.classifier import probabilities as class_probabilities
from dist_jax.serving.jobs import Stopped
from dist_jax.serving.limits import Limits, RequestError
from dist_jax.weights import clip as clip_weights

LIMITS = Limits(max_labels=3, max_windows=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def video(folder):
    """Two seconds."""
    return write_video(folder / "grey.mp4")


@pytest.fixture(scope="module")
def served(folder):
    """A model with three classes, mixed with its CLIP."""
    protocol = small_models.eval_protocol(num_views=1, zero_shot_weight=0.5)
    served = ServedModel(dist_jax.load(write_model(folder, eval_protocol=protocol)), LIMITS, max_batch=1)
    yield served
    served.close()


@pytest.fixture(scope="module")
def clip_folder(folder):
    """A plain CLIP as a Hugging Face directory."""
    clip_weights.save_huggingface(small_models.clip_model(), folder / "clip")
    return small_models.write_tokenizer(folder / "clip")


def ask(answer, served, video, **fields):
    return answer(served, Upload(video, "my video.mp4", fields), threading.Event())


def test_probabilities_are_those_of_classify_video(served, video):
    answer = ask(answers.classification, served, video)
    expected = dataclasses.replace(classify_video(served.model, video, CLASSES, None, 5), path="my video.mp4").as_dict()
    assert probabilities(answer) == pytest.approx(probabilities(expected), abs=1e-5)
    assert {name: answer[name] for name in ("video", "frames")} == {
        name: expected[name] for name in ("video", "frames")
    }
    assert json.dumps(answer)


@pytest.mark.slow
def test_typed_labels_replace_the_classes(served, video):
    answer = ask(answers.classification, served, video, labels="a fox, a hen\na cow\n", top="2")
    names = ["a fox", "a hen", "a cow"]
    expected = classify_video(served.model, video, names, served.model.encode_classes(names), 2).as_dict()
    assert probabilities(answer) == pytest.approx(probabilities(expected), abs=1e-5)


def test_any_number_of_labels_uses_the_same_programs(served, video, caplog):
    def classify(labels):
        ask(answers.classification, served, video, labels=labels)
        ask(answers.timeline, served, video, labels=labels, window="1")

    classify("a fox")
    with jax.log_compiles():
        classify("a fox, a hen")
        classify("a cow, a pig, a hen")
    assert [record.getMessage() for record in caplog.records if "ompil" in record.getMessage()] == []


def test_independent_classes_have_sigmoid_probabilities():
    vectors = np.log(np.array([[1.0, 3.0]], np.float32))
    text = np.array([[1, 0], [0, 1], [1, 1]], np.float32)  # logits log 1, log 3, log 3
    classes = Classes(("a", "b", "c"), text)
    np.testing.assert_allclose(
        class_probabilities(vectors, classes, multi_label=True, logit_bias=0), [[1 / 2, 3 / 4, 3 / 4]], 1e-6
    )
    np.testing.assert_allclose(
        class_probabilities(vectors, classes, multi_label=False, logit_bias=0), [[1 / 7, 3 / 7, 3 / 7]], 1e-6
    )
    own = Classes(("a", "b"), None)
    np.testing.assert_allclose(
        class_probabilities(vectors, own, multi_label=False, logit_bias=0), [[1 / 4, 3 / 4]], 1e-6
    )


def test_pictures_are_data_uris_and_the_page_escapes_texts(served, video):
    answer = ask(answers.classification, served, video, labels="<b>, a hen", pictures="true")
    assert {name: uri[:16] for name, uri in answer["pictures"].items()} == {
        "frames": "data:image/jpeg;",
        "attention": "data:image/png;b",
    }
    html = fragments.classification(answer)
    assert ("&lt;b&gt;" in html, "<b>" in html, html.count("<img")) == (True, False, 2)
    assert "1 view of 4 frames" in html


def test_timelines_are_those_of_classify_file(served, video):
    answer = ask(answers.timeline, served, video, window="1s", overlap="4", pictures="true")
    windows = list(classify_file(served.model, video, make_grid(served.model, Fraction(1), Fraction(1, 4))))
    assert [(window["start"], window["end"]) for window in answer["windows"]] == [
        (float(window.start), float(window.end)) for window in windows
    ]
    actual = [window["probabilities"] for window in answer["windows"]]
    np.testing.assert_allclose(actual, [window.probabilities for window in windows], atol=1e-5)
    assert (answer["segments"][0]["start"], answer["segments"][-1]["end"]) == (0, 2)
    html = fragments.timeline(answer)
    assert (html.count("<img"), html.count("<tr>")) == (1, 1 + len(answer["segments"]))


@pytest.mark.parametrize(
    ("answer", "fields", "message"),
    [
        (answers.classification, {"labels": "a, b, c, d"}, "4 labels; at most 3 are allowed"),
        (answers.classification, {"labels": "a,,b"}, "labels 'a,,b': names must be unique and not empty"),
        (answers.classification, {"labels": "x" * 201}, "a label has 201 characters; at most 200 are allowed"),
        (answers.classification, {"top": "0"}, "top 0: must be at least 1"),
        (answers.classification, {"top": "many"}, "top 'many': must be a whole number"),
        (answers.classification, {"pictures": "yes"}, "pictures 'yes': must be true or false"),
        (answers.timeline, {"window": "soon"}, "window soon: is not a time"),
        (answers.timeline, {"window": "0"}, "window is 0 s; must be greater than 0"),
        (answers.timeline, {"window": "3"}, "a window of 3 s is longer than the video .2.000 s."),
        (answers.timeline, {"window": "0.1", "overlap": "8"}, "windows; at most 12 are allowed"),
        (answers.timeline, {"overlap": "3"}, "overlap 3: must be one of 1, 2, 4, 8"),
    ],
)
def test_invalid_fields_raise_one_line(served, video, answer, fields, message):
    with pytest.raises(UserError, match=message) as error:
        ask(answer, served, video, **fields)
    assert getattr(error.value, "status", 400) == 400
    assert "\n" not in str(error.value)


def test_a_timeline_ends_when_its_client_is_gone(served, video):
    stop = threading.Event()
    windows = served.timeline(video, served.grid(video, Fraction(1, 2), 1, stop), served.classes(""), stop)
    next(windows)
    stop.set()
    with pytest.raises(Stopped):
        next(windows)


def test_plain_clip_has_no_classes_so_labels_are_required(clip_folder, video):
    served = ServedModel(dist_jax.load(clip_folder, num_frames=2), LIMITS, max_batch=1)
    assert answers.model_facts(served, "clip")["labels"] == "required"
    with pytest.raises(RequestError, match="has no classes of its own; type labels"):
        ask(answers.classification, served, video)
    with pytest.raises(RequestError, match="window is missing"):
        ask(answers.timeline, served, video, labels="a fox, a hen")
    answer = ask(answers.classification, served, video, labels="a fox, a hen", pictures="true")
    assert set(answer["pictures"]) == {"frames"}  # no pooling layers, no attention maps
    names = ["a fox", "a hen"]
    expected = classify_video(served.model, video, names, served.model.encode_classes(names), 5).as_dict()
    assert probabilities(answer) == pytest.approx(probabilities(expected), abs=1e-5)
    served.close()


def test_a_probe_classifies_only_its_own_classes(clip_folder, folder, video):
    workdir = small_models.write_workdir(folder / "probe", clip_folder, "linear_probe")
    served = ServedModel(dist_jax.load(workdir), LIMITS, max_batch=1)
    assert answers.model_facts(served, "probe")["labels"] == "not possible"
    with pytest.raises(RequestError, match=r"has its own classifier, .*; leave the labels empty"):
        ask(answers.classification, served, video, labels="a fox")
    expected = classify_video(served.model, video, CLASSES, None, 5).as_dict()
    assert probabilities(ask(answers.classification, served, video)) == pytest.approx(probabilities(expected), abs=1e-5)
    served.close()


def probabilities(answer):
    """Probabilities by label."""
    return {one["label"]: one["probability"] for one in answer["predictions"]}
