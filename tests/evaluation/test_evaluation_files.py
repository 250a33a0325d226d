"""The lists and annotations of an evaluation are checked before a training starts."""

import pytest

from dist_jax import config as settings
from dist_jax.errors import UserError
from dist_jax.evaluation import evaluate

CLASS_NAMES = {"label": ["push", "pull", "lift"]}


def check(class_names=CLASS_NAMES, **eval_settings) -> None:
    config = settings.defaults()
    config.eval.update(eval_settings)
    evaluate.check_files(config, class_names)


@pytest.fixture
def folder(tmp_path):
    files = {
        "videos.txt": "push/1.avi\n",
        "empty.txt": "\n",
        "classes.txt": "push\nlift\n",
        "other_classes.txt": "push\nfold\n",
        "EPIC_100_tail_verbs.csv": "verb\n3\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_valid_lists_are_accepted(folder):
    check()
    check(video_lists=f"{folder}/videos.txt,{folder}/v*.txt")
    check(class_lists=f"{folder}/classes.txt")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("video_lists", "{folder}/videos.txt,{folder}/none.txt", "video_lists: .*/none.txt does not exist"),
        ("video_lists", "{folder}/none*.txt", r"video_lists: .*/none\*.txt does not exist"),
        ("video_lists", "{folder}/empty.txt", "video_lists: .*/empty.txt lists no videos"),
        ("class_lists", "{folder}/none.txt", "class_lists: .*/none.txt does not exist"),
        ("class_lists", "{folder}/other_classes.txt", "1 names that are not classes of data.val: 'fold'"),
    ],
)
def test_invalid_lists_are_refused(folder, name, value, message):
    with pytest.raises(UserError, match=message):
        check(**{name: value.format(folder=folder)})


def test_invalid_annotations_are_refused_for_verbs_and_nouns(folder):
    with pytest.raises(UserError, match=r"no EPIC_100_tail_nouns\.csv"):
        check({"verb": ["take"], "noun": ["cup"]}, epic_annotations=str(folder))


def test_files_that_the_evaluation_does_not_read_are_not_checked(folder):
    check(epic_annotations=str(folder))  # one label
    check(video_lists="none.txt", has_labels=False)
