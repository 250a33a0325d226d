"""Lists with lines `path label`: every line has one meaning or is an error."""

import pytest

from dist_jax.errors import UserError, warn_once
from dist_jax.video.list_lines import read_lines, warn_of_other_columns


def pairs(text):
    return [(line.path, line.label) for line in read_lines("list.txt", text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# my list\na.mp4 cooking\nUP.MP4 running\n", [("a.mp4", "cooking"), ("UP.MP4", "running")]),
        ("a.mp4 cooking\n  # end\n", [("a.mp4", "cooking")]),
        ("a.mp4 run\r\nb.mp4  moving   left \r\n", [("a.mp4", "run"), ("b.mp4", "moving left")]),
        ("Fire Domino.mp4 cooking\n", [("Fire Domino.mp4", "cooking")]),
        ("/data/my clips/a.MTS run fast\n", [("/data/my clips/a.MTS", "run fast")]),
        ("a.mp4 \t run fast\n", [("a.mp4", "run fast")]),
        ("a.mp4\trun 2\n", [("a.mp4", "run 2")]),
        ("Fire Domino\tcooking\n", [("Fire Domino", "cooking")]),
        ("a.mp4 24 hours\nb.mp4 level 3\n", [("a.mp4", "24 hours"), ("b.mp4", "level 3")]),
        ("clip1 run\nclip2 moving left\n", [("clip1", "run"), ("clip2", "moving left")]),
        ("a.ogg run\nb.mp4 run\n", [("a.ogg", "run"), ("b.mp4", "run")]),
        (
            "12:30:15.mp4 a\nfile:x.mp4 a\nhttp:x.mp4 a\n100%.mp4 a\n",
            ["12:30:15.mp4", "file:x.mp4", "http:x.mp4", "100%.mp4"],
        ),
        ("gs://bucket/a b.mp4 run\n", [("gs://bucket/a b.mp4", "run")]),
        ("x.mp4.webm run\ny.m2ts run\n", [("x.mp4.webm", "run"), ("y.m2ts", "run")]),
        ("a.mp4 U.S. history, part one\n", [("a.mp4", "U.S. history, part one")]),
        ("'90s.mp4 dance\nb.mp4 rock 'n' roll\n", [("'90s.mp4", "dance"), ("b.mp4", "rock 'n' roll")]),
        ("a\u2028b.mp4 run\n", [("a\u2028b.mp4", "run")]),
    ],
)
def test_lines_with_one_meaning(text, expected):
    assert pairs(text) == [pair if isinstance(pair, tuple) else (pair, "a") for pair in expected]


TAB_OR_CSV = "Put a tab between path and label, or write a CSV file with the header path,label"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 4 0\nUP.MP4 4 1\n", "list.txt, line 1: 'a.mp4 4 0' is `path number number`, not `path label`"),
        ("a.mp4\t4 0\n", "is `path number number`"),
        ("a.mp4 0:01 0:02.5\n", "is `path number number`"),
        ("a.mp4 run 0 10\n", "is `path word number number`"),
        ("a.mp4 0 10 run\n", "is `path number number word`"),
        ("a.mp4\trun\t3\n", "has 3 columns, read as ['a.mp4', 'run', '3']"),
        ("ok.mp4 run\na.mp4 b.mp4 run\n", "line 2: 'a.mp4 b.mp4 run' has several meanings; it can be read as the path "
         "'a.mp4' and the label 'b.mp4 run' or as the path 'a.mp4 b.mp4' and the label 'run'. " + TAB_OR_CSV),
        ("a.mp4 run\tfast\n", "has several meanings"),
        ("Fire Domino.dat cooking\n", "the path 'Fire' and the label 'Domino.dat cooking'. " + TAB_OR_CSV),
        ("my clips/a run\n", "the path 'my' and the label 'clips/a run'"),
        ("a.mp4 run\nFire Domino cooking\n", "line 2: read as the path 'Fire' and the label 'Domino cooking', but"),
        ("a.mp4, run\n", "the path 'a.mp4,' and the label 'run'. " + TAB_OR_CSV),
        ("a.mp4;run fast\n", "the path 'a.mp4;run' and the label 'fast'"),
        ("a.mp4 | run\n", "the path 'a.mp4' and the label '| run'. " + TAB_OR_CSV),
        ("a.mp4 - run\n", "the label '- run'"),
        ("a.mp4 run,\n", "the label 'run,'"),
        ('{"path": "a.mp4", "label": "run"}\n', "has several meanings"),
        ("a.mp4,run\n", "'a.mp4,run' has no label after the path"),
        ("run a.mp4\n", "'run a.mp4' has no label after the path"),
        ("run\ta.mp4\n", "the label 'a.mp4', which is a video. Write the path first"),
        ("path label\na.mp4 run\n", "line 1: 'path label' is a header"),
        ("video_id\tclass name\nabc\trun\n", "line 1: 'video_id\\tclass name' is a header"),
        ("name start end\na.mp4 run\n", "line 1: read as the path 'name' and the label 'start end', but"),
        ("'a b.mp4' run\n", "has quotes"),
        ('a.mp4 "moving left"\n', "has quotes"),
        ("a.mp4 run # good\n", "A comment needs its own line"),
    ],
)  # fmt: skip
def test_lines_with_several_meanings_are_rejected(text, message):
    with pytest.raises(UserError) as error:
        pairs(text)
    assert message in str(error.value)
    assert str(error.value).startswith("list.txt, line ") and "\n" not in str(error.value)


def test_a_comment_that_looks_like_a_video_is_a_warning(capsys):
    assert pairs("#1 dunk.mp4 basketball\na.mp4 run\n") == [("a.mp4", "run")]
    assert "comments that look like videos: 1, first line 1: '#1 dunk.mp4 basketball'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["run", "run 3", "run"], "1 of 2 class names occur once and end with a number or contain a file name, first"),
        (["run", "b.jpg", "run"], "first 'b.jpg' (line 2)"),
        (["12 run", "30 run"], "2 of 2 class names begin with a number, first '12 run' (line 1)"),
        (["run 0", "run 0", "jump 1", "jump 1"], "2 of 2 class names end with a number, first 'run 0' (line 1)"),
        (["level 1", "level 1", "24 hours", "U.S. history"], ""),
    ],
)  # fmt: skip
def test_class_names_with_other_columns_are_a_warning(capsys, labels, message):
    warn_once.cache_clear()
    warn_of_other_columns("list.txt", list(enumerate(labels, 1)))
    printed = capsys.readouterr().err
    assert message in printed and bool(printed) == bool(message)
