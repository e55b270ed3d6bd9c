"""Readers of raw datasets that are parts of recordings or folders of them: IEMOCAP, CMU-MOSEI's videos, a folder per label."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from data.errors import InputError
from data.sources import SOURCES
from data.sources.places import MediaFinder


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# ---- a folder per label -------------------------------------------------------------------------------------------------


def test_folders_name_labels_and_splits(tmp_path: Path) -> None:
    names = (
        "train/anger/a.mp4",
        "train/Joy of life/deeper/b.MKV",
        "val/anger+sadness/c.wav",
        "TEST/neutral/d.mov",
    )
    touch(*(tmp_path / name for name in names), tmp_path / "train/anger/._a.mp4", tmp_path / "notes.txt")
    items = {item.id: item for item in SOURCES.get("folders")(tmp_path)}
    assert {id_: (item.split, item.labels) for id_, item in items.items()} == {
        "folders/train/anger/a.mp4": ("train", ("anger",)),
        "folders/train/Joy of life/deeper/b.MKV": ("train", ("Joy of life",)),
        "folders/val/anger+sadness/c.wav": ("valid", ("anger", "sadness")),
        "folders/TEST/neutral/d.mov": ("test", ()),
    }
    assert items["folders/train/anger/a.mp4"].path == tmp_path / "train" / "anger" / "a.mp4"
    assert all(item.speaker == "" and item.start_s is None for item in items.values())


def test_folders_without_splits(tmp_path: Path) -> None:
    touch(tmp_path / "bored/a.mp4", tmp_path / "neutral/b.mp4")
    assert [(item.split, item.labels) for item in SOURCES.get("folders")(tmp_path)] == [(None, ("bored",)), (None, ())]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a.mp4",), "a label's folder"),
        (("train/a.mp4", "train/anger/b.mp4"), "'train/a.mp4'"),
        (("train/anger/a.mp4", "anger/b.mp4"), "'folders/anger/b.mp4' is not"),
        (("train/test/a.mp4",), "got two"),
        (("readme.txt",), "there is none"),
    ],
)
def test_folders_that_are_not_so(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in names))
    with pytest.raises(InputError, match=said):
        SOURCES.get("folders")(tmp_path)
    with pytest.raises(InputError) as caught:
        SOURCES.get("folders")(tmp_path / "gone")
    assert caught.value.code == "no_dataset"


# ---- CMU-MOSEI ----------------------------------------------------------------------------------------------------------

TABLE = """id,link,segment_id,start,end,sentiment,happy,sad,anger,surprise,disgust,fear
aa,,0,1.5,4.25,1.0,0.66,0,0,0,0,0.33
aa,,1,4.25,9.0,0.0,0,0,0,0,0,0
-b_,,0,0.0,3.0,-1.0,0,1,0,0.33,0,0
cc,,0,0.0,3.0,-1.0,0,1,0,0,0,0
"""


def write_mosei(folder: Path, videos: tuple[str, ...] = ("aa", "-b_", "cc")) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "emotion_ratings.csv").write_text(TABLE)
    (folder / "standard_folds.json").write_text(json.dumps({"train": ["aa", "gone"], "valid": [], "test": ["-b_"]}))
    touch(*(folder / "Raw" / "Videos" / "Full" / "Combined" / f"{video}.mp4" for video in videos))
    return folder


def test_mosei_segments_of_whole_videos(tmp_path: Path) -> None:
    folder = write_mosei(tmp_path / "mosei")
    words = folder / "Raw" / "Transcript" / "Segmented" / "Combined" / "aa.txt"
    touch(words)
    words.write_text("aa___0___1.5___4.25___so ___ happy\naa___1___77___78___elsewhere\nbroken line\n")
    items = SOURCES.get("mosei-raw")(folder)
    assert [(i.id, i.split, i.labels, i.start_s, i.end_s, i.text) for i in items] == [
        ("cmu-mosei/aa[0]", "train", ("fear", "happiness"), 1.5, 4.25, "so ___ happy"),
        ("cmu-mosei/aa[1]", "train", (), 4.25, 9.0, None),
        ("cmu-mosei/-b_[0]", "test", ("sadness", "surprise"), 0.0, 3.0, None),
    ]
    assert [i.speaker for i in items] == ["aa", "aa", "-b_"]
    assert items[0].path == folder / "Raw" / "Videos" / "Full" / "Combined" / "aa.mp4"


def test_mosei_without_its_videos(tmp_path: Path) -> None:
    folder = write_mosei(tmp_path / "mosei", ("aa",))
    with pytest.raises(InputError, match=r"fold test .* \(like -b_\.mp4\) but 1 are missing"):
        SOURCES.get("mosei-raw")(folder)
    (folder / "standard_folds.json").unlink()
    with pytest.raises(InputError, match=r"standard_folds\.json"):
        SOURCES.get("mosei-raw")(folder)
    with pytest.raises(InputError):
        SOURCES.get("mosei-raw")(tmp_path / "gone")


@pytest.mark.shared
def test_real_mosei_table_gives_the_published_test_labels(shared_data: Path, tmp_path: Path) -> None:
    """The folds hold 22,860 rated segments, four more than the published sets; three of them happy ones of the test fold."""
    source = shared_data / "mosei"
    for name in ("emotion_ratings.csv", "standard_folds.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with (source / "emotion_ratings.csv").open(newline="") as stream:
        touch(*(tmp_path / f"{video}.mp4" for video in {row["id"] for row in csv.DictReader(stream)}))
    items = SOURCES.get("mosei-raw")(tmp_path)
    assert Counter(item.split for item in items) == {"train": 16_327, "valid": 1_871, "test": 4_662}
    counts = Counter(label for item in items if item.split == "test" for label in item.labels)
    assert counts == {
        "happiness": 2505,
        "sadness": 1129,
        "anger": 1071,
        "surprise": 441,
        "disgust": 805,
        "fear": 385,
    }
    assert len({item.id for item in items}) == len(items)


# ---- IEMOCAP ------------------------------------------------------------------------------------------------------------

EVALUATION = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes0{n}F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[10.0100 - 11.3925]\tSes0{n}F_impro01_M001\texc\t[2.5000, 2.5000, 2.5000]
[12.0000 - 13.0000]\tSes0{n}F_impro01_M002\txxx\t[2.5000, 2.5000, 2.5000]
[14.0000 - 15.0000]\tSes0{n}F_impro01_F003\tfru\t[2.5000, 2.5000, 2.5000]
[9.0000 - 9.5000]\tSes0{n}F_impro01_F004\tang\t[2.5000, 2.5000, 2.5000]
"""
SAID = """Ses0{n}F_impro01_F000 [006.2901-008.2357]: Excuse me.
Ses0{n}F_impro01_M001 [010.0100-011.3925]: Do you have your forms?
M: hm
"""


def write_iemocap(folder: Path, video: bool = True) -> Path:
    for n in range(1, 6):
        dialog = folder / f"Session{n}" / "dialog"
        touch(dialog / "EmoEvaluation" / f"Ses0{n}F_impro01.txt", dialog / "EmoEvaluation" / f"._Ses0{n}F_impro01.txt")
        (dialog / "EmoEvaluation" / f"Ses0{n}F_impro01.txt").write_text(EVALUATION.format(n=n))
        touch(dialog / "transcriptions" / f"Ses0{n}F_impro01.txt")
        (dialog / "transcriptions" / f"Ses0{n}F_impro01.txt").write_text(SAID.format(n=n))
        if video:
            touch(dialog / "avi" / "DivX" / f"Ses0{n}F_impro01.avi")
        turns = folder / f"Session{n}" / "sentences" / "wav" / f"Ses0{n}F_impro01"
        touch(*(turns / f"Ses0{n}F_impro01_{turn}.wav" for turn in ("F000", "M001", "F004")))
    return folder


def test_iemocap_turns_of_videos(tmp_path: Path) -> None:
    items = SOURCES.get("iemocap")(write_iemocap(tmp_path))
    assert len(items) == len({item.id for item in items}) == 15
    first = [(i.id, i.labels, i.speaker, i.text, i.start_s, i.end_s) for i in items[:3]]
    assert first == [
        ("iemocap/Ses01F_impro01_F000", (), "Ses01F", "Excuse me.", 6.2901, 8.2357),
        ("iemocap/Ses01F_impro01_F004", ("anger",), "Ses01F", None, 9.0, 9.5),
        ("iemocap/Ses01F_impro01_M001", ("happiness",), "Ses01M", "Do you have your forms?", 10.01, 11.3925),
    ]
    assert items[0].path == tmp_path / "Session1" / "dialog" / "avi" / "DivX" / "Ses01F_impro01.avi"
    assert {(item.speaker[:5], item.split) for item in items} == {
        ("Ses01", "train"),
        ("Ses02", "train"),
        ("Ses03", "train"),
        ("Ses04", "valid"),
        ("Ses05", "test"),
    }
    alone = SOURCES.get("iemocap")(tmp_path / "Session5")
    assert [item.id for item in alone] == [item.id for item in items[-3:]]


def test_iemocap_without_videos_is_the_turns_sound(tmp_path: Path) -> None:
    items = SOURCES.get("iemocap")(write_iemocap(tmp_path, video=False))
    wav = tmp_path / "Session2" / "sentences" / "wav" / "Ses02F_impro01" / "Ses02F_impro01_M001.wav"
    by_id = {item.id: item for item in items}
    assert by_id["iemocap/Ses02F_impro01_M001"].path == wav
    assert all(item.start_s is None and item.end_s is None for item in items)
    wav.unlink()
    with pytest.raises(InputError, match="sound of Ses02F_impro01_M001"):
        SOURCES.get("iemocap")(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"), [("\tang\t", "\tbored\t"), ("[9.0000 - 9.5000]", "[9.0000]"), ("_F004", "_X004")]
)
def test_iemocap_names_the_bad_line(old: str, new: str, tmp_path: Path) -> None:
    table = write_iemocap(tmp_path) / "Session3" / "dialog" / "EmoEvaluation" / "Ses03F_impro01.txt"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"Ses03F_impro01\.txt line 10"):
        SOURCES.get("iemocap")(tmp_path)
    with pytest.raises(InputError) as caught:
        SOURCES.get("iemocap")(tmp_path / "Session9")
    assert caught.value.code == "no_dataset"


# ---- recordings that annotations name -----------------------------------------------------------------------------------


def test_media_are_found_by_name_below_the_folder_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root / "one/clip.mp4", root / "two/clip.mp4", root / "my clip #1.mp4", tmp_path / "outside.mp4")
    finder = MediaFinder(root)
    assert finder.find("./clip.mp4", root / "one") == root / "one/clip.mp4"
    assert finder.find("../two/clip.mp4", root / "one") == root / "two/clip.mp4"
    assert finder.find("file:///C:/Users/me/my%20clip%20%231.mp4", root / "one") == root / "my clip #1.mp4"
    assert finder.find(r"D:\videos\my clip #1.mp4", root) == root / "my clip #1.mp4"
    assert finder.find("../outside.mp4", root) is None
    assert finder.find(str(tmp_path / "outside.mp4"), root) is None
    assert finder.find("", root) is None
    with pytest.raises(InputError, match="found 2"):
        finder.find("/elsewhere/clip.mp4", root)
