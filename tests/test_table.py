"""The table of a dataset: what it says, and every problem with its row."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import InputError
from data.sources import LabelledItem
from data.table import TableError, TableOptions, length_problems, read_table, write_table


def table(folder: Path, text: str, *files: str, options: TableOptions | None = None, encoding: str = "utf-8"):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return read_table(path, options=options or TableOptions())


def test_ratings_lists_times_and_texts(tmp_path: Path) -> None:
    text = (
        "File,Start_S,end_s,split,speaker,text,joy,Fear\n"
        'a.mp4,0:01:02.5,63,dev,ann,"well, yes",0.33,0\n'
        "d/b.wav,,,Train,bob,,0,2\n"
    )
    found = table(tmp_path, text, "a.mp4", "d/b.wav")
    assert found.problems == ()
    assert found.labels == ("joy", "fear")
    assert found.rows == (2, 3)
    assert found.items == (
        LabelledItem("a.mp4:62.500-63.000", "valid", ("joy",), "ann", "well, yes", tmp_path / "a.mp4", 62.5, 63.0),
        LabelledItem("d/b.wav", "train", ("fear",), "bob", None, tmp_path / "d/b.wav"),
    )
    above = table(tmp_path, text, options=TableOptions(threshold=1.0))
    assert [item.labels for item in above.items] == [(), ("fear",)]
    assert table(tmp_path, text, options=TableOptions(labels=("fear",))).labels == ("fear",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lists_in_any_common_csv(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [
        ["file", "labels"],
        ["ä.mp4", "Surprise | pride"],
        ["b.mp4", "neutral"],
        ["c.mp4", ""],
        ["d.mp4", "anger+pride"],
    ]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    found = table(tmp_path, text, "ä.mp4", "b.mp4", "c.mp4", "d.mp4", encoding=encoding)
    assert found.problems == ()
    assert [item.labels for item in found.items] == [("surprise", "pride"), (), (), ("anger", "pride")]
    assert found.labels == ("anger", "surprise", "pride")  # emotions in their usual order, then the others
    with_neutral = table(tmp_path, text, options=TableOptions(neutral=True), encoding=encoding)
    assert with_neutral.labels == ("anger", "surprise", "neutral", "pride")


def test_every_problem_is_told_with_its_row_at_once(tmp_path: Path) -> None:
    text = (
        "file,start_s,end_s,split,anger\n"
        "a.mp4,0,1,train,1\n"
        "a.mp4,0,1,train,1\n"  # 3: twice
        "b.mp4,0,1,train,1\n"  # 4: no such file; a.mp4 is near
        "\n"
        "a.mp4,3,2,tran,1\n"  # 6: order and split
        "a.mp4,x,4,train,\n"  # 7: time, and an empty label
        ",1,2,train,1\n"  # 8: no file
        "a.mp4,4,5,train\n"  # 9: a cell is missing
        "a.mp4,5,6,,1\n"  # 10: no split
        'a.mp4,6,7,test,"two\nlines"\n'  # 11 and 12
        "folder.mp4,7,8,test,0\n"  # 13
        "a.mp4,8,inf,test,nan\n"  # 14
    )
    (tmp_path / "folder.mp4").mkdir()
    found = table(tmp_path, text, "a.mp4")
    with pytest.raises(TableError) as raised:
        found.check(length_problems(found, {tmp_path / "a.mp4": 4.2}))
    told = [(problem.split(":")[0], problem) for problem in raised.value.problems]
    rows = [int(row.removeprefix("row ")) for row, _ in told]
    assert rows == sorted(rows)
    expected = {
        3: "row 2 is about", 4: "Did you mean 'a.mp4'", 6: "tran", 7: "'x'", 8: "empty", 9: "4", 10: "split",
        11: "two", 13: "regular", 14: "inf",
    }  # fmt: skip
    for row, words in expected.items():
        assert any(n == row and words in said for n, (_, said) in zip(rows, told, strict=True)), (row, told)
    assert any(n == 10 and "within the file's 4.20 s" in said for n, (_, said) in zip(rows, told, strict=True))
    assert set(rows) == set(expected)
    assert str(raised.value).count("\n") == 0
    assert f"{len(told)} problems" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video,anger\na.mp4,1\n", "Rename 'video'"),
        ("", "a column 'file'"),
        ("file,anger,anger\na.mp4,1,1\n", "twice"),
        ("file,speaker\na.mp4,ann\n", "a column per label"),
        ("file,anger\n", "none"),
        ("file,anger,speakr\na.mp4,1,ann\na.mp4,1,bob\n", "Did you mean 'speaker'"),
        ("file,anger,comment\na.mp4,1,good\n", "--labels"),
        ("file,labels\na.mp4,\n", "no row has any"),
        ("file,labels\n" + "".join(f"{n}.mp4,anger\n" for n in range(12)) + "a.mp4,angr\n", "looks like 'anger'"),
        ('file,labels\na.mp4,"anger\n' + "x" * 200_000, "field larger"),
    ],
)
def test_a_table_that_is_wrong_as_a_whole(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TableError, match=said):
        table(tmp_path, text, "a.mp4", *(f"{n}.mp4" for n in range(12))).check()


def test_unknown_names_in_lists_and_columns(tmp_path: Path) -> None:
    options = TableOptions(labels=("anger", "joy"))
    with pytest.raises(TableError, match="Did you mean 'joy'"):
        table(tmp_path, "file,labels\na.mp4,jooy\n", "a.mp4", options=options).check()
    with pytest.raises(TableError, match="Did you mean 'angry'"):
        table(tmp_path, "file,angry,joy\na.mp4,1,0\n", "a.mp4", options=options)


def test_no_table_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none"):
        read_table(tmp_path / "labels.csv")
    with pytest.raises(InputError, match="row 2 is not"):
        table(tmp_path, "file,anger\n\xff\xfe.mp4,1\n", encoding="latin1")


def test_a_table_written_is_read_the_same(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a, b.mp4", "c.mp4"):
        (videos / name).write_bytes(b"x")
    items = [
        LabelledItem("1", "train", ("joy",), "ann", 'so "good",\nyes', videos / "a, b.mp4", 0.5, 1.25),
        LabelledItem("2", "test", (), "bob", None, videos / "c.mp4"),
        LabelledItem("3", "valid", ("joy", "fear"), "", "only text"),
    ]
    path = tmp_path / "tables" / "labels.csv"
    path.parent.mkdir()
    assert write_table(items, ("fear", "joy"), path) == 3
    found = read_table(path)
    assert found.problems == ()
    assert found.labels == ("fear", "joy")
    for item, again in zip(items, found.items, strict=True):
        assert (again.split, set(again.labels), again.speaker) == (item.split, set(item.labels), item.speaker)
        assert (again.start_s, again.end_s) == (item.start_s, item.end_s)
        assert (again.path and again.path.resolve()) == (item.path and item.path.resolve())
        assert again.text == (item.text and " ".join(item.text.split()))
    with pytest.raises(InputError, match="there is one"):
        write_table(items, ("fear", "joy"), path)
