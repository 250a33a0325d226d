import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_jax.errors import UserError
from dist_jax.video.video_list import (
    VideoSegment,
    check_labels,
    csv_rows,
    parse_seconds,
    read_class_names,
    read_list,
)


@pytest.fixture
def list_file(tmp_path):
    """Writes a list file and returns its path."""

    def write(text):
        (tmp_path / "list.txt").write_text(text)
        return str(tmp_path / "list.txt")

    return write


def test_a_line_is_a_path_and_a_label_of_several_words(list_file):
    path = list_file("a.mp4 moving left\n\n  sub/b.mp4   moving   right \nwith space.mp4\tmoving left\n")
    assert read_list(path) == [
        VideoSegment("a.mp4", "moving left"),
        VideoSegment("sub/b.mp4", "moving right"),
        VideoSegment("with space.mp4", "moving left"),
    ]


def test_csv_with_start_and_end_times(list_file):
    path = list_file('\ufeffPath, label,start,end\n"a, b.mp4",jump,1.5,00:01:02.5\nc.mp4,"run, fast",,\n')
    assert read_list(path) == [VideoSegment("a, b.mp4", "jump", 1.5, 62.5), VideoSegment("c.mp4", "run, fast")]


def test_csv_columns_in_any_order_with_captions(list_file):
    assert read_list(list_file("label,caption,path\njump,a man jumps,a.mp4\n")) == [
        VideoSegment("a.mp4", "jump", caption="a man jumps")
    ]


def test_csv_with_carriage_returns_as_line_ends(tmp_path):
    (tmp_path / "mac.csv").write_bytes(b"path,label\ra.mp4,run\rb.mp4,jump\r")
    assert read_list(str(tmp_path / "mac.csv")) == [VideoSegment("a.mp4", "run"), VideoSegment("b.mp4", "jump")]


def test_a_csv_field_over_the_size_limit_is_rejected(list_file):
    with pytest.raises(UserError, match="invalid CSV in line 2"):
        read_list(list_file("path,label\na.mp4," + "x" * 200_000 + "\n"))


def test_a_number_is_a_class_number_if_class_names_are_given(list_file):
    path = list_file("a.mp4 1\nb.mp4 run\n")
    assert [segment.label for segment in read_list(path, ["jump", "run"])] == ["run", "run"]


def test_a_number_can_be_a_class_name(list_file):
    assert read_list(list_file("a.mp4 1\n"), ["2", "1"]) == [VideoSegment("a.mp4", "1")]
    assert [segment.label for segment in read_list(list_file("a.mp4 360\nb.mp4 kickflip\n"))] == ["360", "kickflip"]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("", None, "contains no videos"),
        ("path,label\n", None, "contains no videos"),
        ("a.mp4\n", None, "line 1: 'a.mp4' has no label"),
        ("a.mp4 run\n\na.mp4 run\n", None, "lines 1 and 3 are the same segment"),
        ("a.mp4 run\n./a.mp4 run\n", None, "lines 1 and 2 are the same segment"),
        ("a.mp4 0\nb.mp4 1\n", None, "the labels are numbers .* --labels"),
        ("path,label\na.mp4,0.0\nb.mp4,-1\n", None, "the labels are numbers .* --labels"),
        ("a.mp4 runing\n", ["jumping", "running"], "line 1: label 'runing' .* 2 class names; the nearest is 'running'"),
        ("a.mp4 run\nb.mp4 2\n", ["jump", "run"], "line 2: label '2' is not among"),
        ("path,label,begin\na.mp4,run,1\n", None, "unknown column 'begin'"),
        ("path,start\na.mp4,1\n", None, "no column 'label'"),
        ("path,label\na.mp4,run,1\n", None, "line 2 has more or fewer values"),
        ("path,label,labels\na.mp4,run,run\n", None, "the columns 'label' and 'labels'"),
        ("path,labels\na.mp4,run|\n", None, r"line 2: the labels 'run\|' have an empty or repeated label"),
        ("path,labels\na.mp4,run|hop|run\n", None, "line 2: .* empty or repeated label"),
        ("path,labels\na.mp4,run|hop\n", ["hop", "walk"], "line 2: label 'run' is not among the 2 class names"),
        ("path,labels\na.mp4,\nb.mp4,0|1\n", None, "the labels are numbers .line 3: 0."),
        ("path,labels\na.mp4,\n", None, "no video has a label; set the file of class names with --labels"),
        ("path,label\na.mp4\n", None, "line 2 has more or fewer values"),
        ("path,label,path\na.mp4,run,b.mp4\n", None, "has a column twice"),
        ("path;label\na.mp4;run\n", None, "line 1: .* separated by semicolons; separate .* by commas"),
        ("# mine\npath\tlabel\tstart\na.mp4\trun\t1\n", None, "line 2: .* separated by tabs; separate .* by commas"),
        ("path,label\n'a.mp4','run'\n", None, "line 2: .* single quotes"),
        ("path,label\nclips\\a.mp4,run\n", None, "line 2: the path .* has backslashes; write /"),
        ("clips\\a.mp4 run\n", None, "line 1: the path .* has backslashes; write /"),
        ("path,label\n,run\n", None, "line 2: path and label must not be empty"),
        ("path,label,start\na.mp4,run,soon\n", None, "line 2: 'soon' is not a time"),
        ("path,label,start\na.mp4,run,-1\n", None, "line 2: '-1' is not a time"),
        ("path,label,start,end\na.mp4,run,2,1\n", None, "end 1 s must be after start 2 s"),
    ],
)
def test_invalid_lists_are_rejected(list_file, text, names, message):
    with pytest.raises(UserError, match=message):
        read_list(list_file(text), names)


def test_the_column_labels_has_any_number_of_labels_and_the_column_label_has_one(list_file):
    path = list_file("path,labels,end\na.mp4,run | hop,1\nb.mp4,,\nc.mp4,1|run,\n")
    assert read_list(path, ["run", "hop"]) == [
        VideoSegment("a.mp4", "run", end_s=1.0, other_labels=("hop",)),
        VideoSegment("b.mp4", None),
        VideoSegment("c.mp4", "hop", other_labels=("run",)),
    ]
    (segment,) = read_list(list_file("path,label\na.mp4,run|hop\n"))  # a name may contain the separator
    assert segment.labels == ("run|hop",)


def test_comments_in_csv_keep_the_line_numbers(list_file):
    path = list_file("# mine\n\npath,label,caption\n# no\na.mp4,run,one # line\n\n")
    assert read_list(path) == [VideoSegment("a.mp4", "run", caption="one # line")]
    with pytest.raises(UserError, match=r"line 5: the caption 'two\\n# lines' has a line break"):
        read_list(list_file('# mine\n\npath,label,caption\n# no\na.mp4,run,"two\n# lines"\n'))
    with pytest.raises(UserError, match="line 4: '1 s' is not a time"):
        read_list(list_file("# mine\npath,label,start\n# no\na.mp4,run,1 s\n"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a.mp4,run\nb.mp4,"run\nc.mp4,jump\n', r"line 3 \(unexpected end of data\); check its double quotes"),
        ('a.mp4,run\n\nb.mp4,"run\nc.mp4,"jump"\n', r"line 4 \(',' expected"),
        ('a.mp4,"run\nb.mp4,jump\n"\nc.mp4,jump\n', r"line 2: the label 'run\\nb\.mp4,jump\\n' has a line break"),
        ('a.mp4,run\n"b\r\n.mp4",run\n', r"line 3: the path 'b\\n\.mp4' has a line break; check its double quotes"),
    ],
)
def test_a_quote_that_is_not_closed_is_an_error_with_its_line(list_file, rows, message):
    with pytest.raises(UserError, match=message):
        read_list(list_file("path,label\n" + rows))


def test_a_caption_must_be_one_line(list_file):
    with pytest.raises(UserError, match=r"line 2: the caption 'up\\nand down' has a line break"):
        read_list(list_file('path,label,caption\na.mp4,run,"up\nand down"\n'))


def test_values_of_other_csv_files_may_have_line_breaks():
    text = 'path,note\na.mp4,"two\nlines"\nb.mp4,one\n'
    rows = [(2, {"path": "a.mp4", "note": "two\nlines"}), (4, {"path": "b.mp4", "note": "one"})]
    assert csv_rows("x.csv", text, ("path",)) == rows


@pytest.mark.parametrize("text", ["~/a.mp4 run\n", "path,label\n~/a.mp4,run\n"])
def test_a_tilde_is_the_home_folder(list_file, monkeypatch, text):
    monkeypatch.setenv("HOME", "/home/me")
    assert read_list(list_file(text)) == [VideoSegment("/home/me/a.mp4", "run")]


def test_a_class_name_with_another_column_is_a_warning(list_file, capsys):
    read_list(list_file("path,label\na.mp4,run\nb.mp4,run 3\n"))
    assert "1 of 2 class names occur once and end with a number" in capsys.readouterr().err
    read_list(list_file("a.mp4 run\nb.mp4 jump 3\n"), ["run", "jump 3"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.mp4 run\ncaf\xe9.mp4 run\n", r"latin\.txt, line 2: not UTF-8 text .*; save the file as UTF-8"),
        ("a.mp4 run\n".encode("utf-16"), "line 1: not UTF-8"),
        ("a.mp4 run\n".encode("utf-16-le"), "has zero bytes"),
    ],
)
def test_lists_in_other_encodings_are_rejected(tmp_path, content, message):
    (tmp_path / "latin.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_list(str(tmp_path / "latin.txt"))


def test_a_missing_list_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt: cannot be read"):
        read_list(str(tmp_path / "absent.txt"))


name = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
words = st.lists(name, min_size=1, max_size=4).filter(lambda words: is_label(words)).map(" ".join)


# Labels may end with a number that belongs to them, but not begin or end with two.
def is_label(words):
    numbers = [word.isdecimal() for word in words]
    return not (all(numbers) or (len(numbers) > 1 and (all(numbers[:2]) or all(numbers[-2:]))))


@given(st.lists(st.tuples(name, words), min_size=1, max_size=20, unique=True))
def test_any_path_and_label_are_read_back(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("list") / "list.txt"
    path.write_text("".join(f"{video}.mp4 {label}\n" for video, label in pairs))
    assert read_list(str(path)) == [VideoSegment(f"{video}.mp4", label) for video, label in pairs]


def test_class_names_are_one_per_line(list_file):
    assert read_class_names(list_file("run\njump high \n")) == ["run", "jump high"]
    for text, message in {
        "": "no class names",
        "run\n\njump\n": "line 2 is empty",
        "run\njump\nrun\n": "lines 1 and 3 are both 'run'",
    }.items():
        with pytest.raises(UserError, match=message):
            read_class_names(list_file(text))


def test_unknown_labels_are_rejected_with_the_nearest_name():
    check_labels([VideoSegment("a", "run"), VideoSegment("b", None, verb=1, noun=2)], ["run"])
    with pytest.raises(UserError, match="b: label 'rum' is not among the 2 class names; the nearest is 'run'"):
        check_labels([VideoSegment("a", "run"), VideoSegment("b", "rum")], ["jump", "run"])


def test_parse_seconds():
    assert parse_seconds("12.5", "") == 12.5
    assert parse_seconds("01:02", "") == 62
    assert parse_seconds("01:00:02.250", "") == 3602.25
    for text in ("", "1:2:3:4", "nan", "inf", "-0:01", "x"):
        with pytest.raises(UserError, match=f"here: {text!r} is not a time"):
            parse_seconds(text, "here")
