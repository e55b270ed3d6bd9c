"""Dataset readers on small folders of the true layout, and on the real ones where they are there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data.errors import InputError
from data.labels import EMOTIONS
from data.sources import SOURCES
from data.splits import stratified_group_split


def write_goemotions(folder: Path, lines: dict[str, str]) -> Path:
    (folder / "labels.txt").write_text("anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise")
    for split in ("train", "dev", "test"):
        (folder / f"{split}.tsv").write_text(lines.get(split, "fine\t4\tx0\n"), encoding="utf-8")
    return folder


def test_goemotions_layout(tmp_path: Path) -> None:
    text = "so happy and shocked\t3,6\ta1\nnothing\t4\ta2\nodd \x85 character\t0\ta3\n"
    items = SOURCES.get("goemotions")(write_goemotions(tmp_path, {"train": text}))
    assert [item.split for item in items] == ["train"] * 3 + ["valid", "test"]
    assert [item.labels for item in items[:3]] == [("happiness", "surprise"), (), ("anger",)]
    assert items[2].text == "odd \x85 character"


@pytest.mark.parametrize("line", ["no tabs", "text\t99\tid", "text\tx\tid"])
def test_goemotions_names_the_bad_line(line: str, tmp_path: Path) -> None:
    folder = write_goemotions(tmp_path, {"dev": f"fine\t4\tb1\n{line}\n"})
    with pytest.raises(InputError, match=r"dev\.tsv line 2"):
        SOURCES.get("goemotions")(folder)


def test_ravdess_names_and_actors(tmp_path: Path) -> None:
    (tmp_path / "Actor_01").mkdir()
    for name in ("Actor_01/03-01-05-01-01-01-01.wav", "03-01-01-01-02-01-18.flac", "03-01-08-02-02-02-19.wav"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.wav").write_bytes(b"")
    items = {item.id: item for item in SOURCES.get("ravdess")(tmp_path)}
    assert {(i.split, i.labels, i.speaker) for i in items.values()} == {
        ("train", ("anger",), "actor01"),
        ("valid", (), "actor18"),
        ("test", ("surprise",), "actor19"),
    }


def test_face_stills_keep_people_together(tmp_path: Path) -> None:
    rows = [
        f"P{person}_{number:04d}.jpg,{emotion}"
        for person in range(30)
        for number, emotion in enumerate(("fear", "neutral"))
    ]
    (tmp_path / "labels.csv").write_text("image,emotion\n" + "\n".join(rows) + "\n")
    for row in rows:
        (tmp_path / row.split(",")[0]).write_bytes(b"")
    items = SOURCES.get("face-stills")(tmp_path)
    assert len(items) == 60
    assert len({(i.speaker, i.split) for i in items}) == len({i.speaker for i in items}) == 30
    assert Counter(i.split for i in items if i.labels)["train"] == 21  # 70 % of 30


def write_crema_d(folder: Path, suffix: str = ".wav") -> Path:
    folder.mkdir(exist_ok=True)
    for actor in range(1001, 1031):
        for code in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"):
            (folder / f"{actor}_IEO_{code}_HI{suffix}").write_bytes(b"")
    return folder


def test_crema_d_names_and_actors(tmp_path: Path) -> None:
    write_crema_d(tmp_path / "AudioWAV")
    (tmp_path / "AudioWAV" / "1001_DFA_XYZ_XX.wav").write_bytes(b"")  # no such emotion
    (tmp_path / "VideoDemographics.csv").write_bytes(b"")
    items = SOURCES.get("crema-d")(tmp_path)
    by_id = {item.id: item for item in items}
    assert len(by_id) == len(items) == 180
    named = {code: by_id[f"crema-d/1007_IEO_{code}_HI"].labels for code in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")}
    assert named == {
        "ANG": ("anger",),
        "DIS": ("disgust",),
        "FEA": ("fear",),
        "HAP": ("happiness",),
        "NEU": (),
        "SAD": ("sadness",),
    }
    assert len({(i.speaker, i.split) for i in items}) == len({i.speaker for i in items}) == 30
    assert {split: Counter(i.split for i in items)[split] for split in ("train", "valid", "test")} == {
        "train": 126,
        "valid": 18,
        "test": 36,
    }
    assert items == SOURCES.get("crema-d")(tmp_path)


def test_crema_d_takes_a_recording_once(tmp_path: Path) -> None:
    write_crema_d(tmp_path / "AudioWAV")
    sound = SOURCES.get("crema-d")(tmp_path)
    write_crema_d(tmp_path / "VideoFlash", ".flv")
    items = SOURCES.get("crema-d")(tmp_path)
    assert [(i.id, i.split) for i in items] == [(i.id, i.split) for i in sound]
    assert {i.path.suffix for i in items if i.path} == {".flv"}


MELD_VIDEOS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def write_meld(folder: Path, videos: bool = True, rows: int = 60) -> Path:
    emotions = ["neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust"]
    for split, name in MELD_VIDEOS.items():
        lines = [
            b"Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
        ]
        for i in range(rows):
            said = [b'"Oh, ""you"" did?"', b"I\x92m fine\x85", "I\x92m fine\x85".encode(), "naïve".encode()][i % 4]
            ending = f'Ross,{emotions[i % 7]},neutral,{i // 10},{i % 10},8,21,"00:16:16,059","00:16:21,731"'
            lines.append(b"%d,%s,%s" % (i + 1, said, ending.encode()))
            if videos:
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                (folder / split / name / f"dia{i // 10}_utt{i % 10}.mp4").write_bytes(b"x")
        (folder / f"{split}_sent_emo.csv").write_bytes(b"\n".join(lines) + b"\n")
    return folder


def test_meld_videos_keep_their_splits(tmp_path: Path) -> None:
    items = SOURCES.get("meld")(write_meld(tmp_path))
    assert Counter(item.split for item in items) == {"train": 60, "valid": 60, "test": 60}
    assert all(item.path and item.path.is_file() for item in items)
    assert [item.text for item in items[:2]] == ['Oh, "you" did?', "I’m fine…"]
    by_id = {item.id: item for item in items}
    assert len(by_id) == 180
    assert by_id["meld/train/dia0_utt0"].labels == ()
    assert by_id["meld/valid/dia0_utt1"].labels == ("happiness",)
    assert by_id["meld/test/dia5_utt5"].path == tmp_path / "test" / "output_repeated_splits_test" / "dia5_utt5.mp4"
    assert by_id["meld/test/dia5_utt5"].speaker == "Ross"
    extra = tmp_path / "test" / "output_repeated_splits_test" / "final_videos_testdia101_utt0.mp4"
    extra.write_bytes(b"x")  # the release has videos that no row names
    assert SOURCES.get("meld")(tmp_path) == items


def test_meld_without_videos_is_text_in_either_encoding(tmp_path: Path) -> None:
    items = SOURCES.get("meld")(write_meld(tmp_path, videos=False))
    assert [item.text for item in items[:4]] == ['Oh, "you" did?', "I’m fine…", "I’m fine…", "naïve"]
    assert all(item.path is None for item in items)


def test_meld_lacks_one_video_but_not_many(tmp_path: Path) -> None:
    write_meld(tmp_path)
    place = tmp_path / "dev" / "dev_splits_complete"
    (place / "dia3_utt7.mp4").unlink()
    items = SOURCES.get("meld")(tmp_path)
    assert Counter(item.split for item in items)["valid"] == 59
    assert "meld/valid/dia3_utt7" not in {item.id for item in items}
    (place / "dia3_utt8.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="2 are missing"):
        SOURCES.get("meld")(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"), [(b",joy,", b",bored,"), (b"Dialogue_ID", b"Dialogue"), (b",0,1,8", b",x,1,8")]
)
def test_meld_names_the_bad_row(old: bytes, new: bytes, tmp_path: Path) -> None:
    table = write_meld(tmp_path, videos=False) / "dev_sent_emo.csv"
    table.write_bytes(table.read_bytes().replace(old, new, 1))
    with pytest.raises(InputError, match=r"dev_sent_emo\.csv row [23]"):
        SOURCES.get("meld")(tmp_path)


def test_missing_dataset_is_one_line(tmp_path: Path) -> None:
    for name in ("goemotions", "ravdess", "face-stills", "crema-d", "meld"):
        with pytest.raises(InputError) as caught:
            SOURCES.get(name)(tmp_path)
        assert caught.value.code == "no_dataset"


def test_group_split_follows_shares_and_labels() -> None:
    groups = [f"g{i % 50}" for i in range(500)]
    labels = [("a",) if i % 3 else ("b",) for i in range(500)]
    assigned = stratified_group_split(groups, labels, {"train": 0.6, "test": 0.4})
    for label in ("a", "b"):
        share = Counter(assigned[g] for g, names in zip(groups, labels, strict=True) if label in names)
        assert share["train"] / sum(share.values()) == pytest.approx(0.6, abs=0.05)
    assert assigned == stratified_group_split(groups, labels, {"train": 0.6, "test": 0.4})
    with pytest.raises(ValueError, match="sum to 1"):
        stratified_group_split(groups, labels, {"train": 0.6})


@pytest.mark.shared
def test_real_sets_have_their_published_sizes(shared_data: Path) -> None:
    goemotions = SOURCES.get("goemotions")(shared_data / "goemotions")
    assert Counter(item.split for item in goemotions)["test"] == 5427  # as published
    ravdess = SOURCES.get("ravdess")(shared_data / "ravdess")
    assert (len(ravdess), len({item.speaker for item in ravdess})) == (1440, 24)
    clips = SOURCES.get("crema-d")(shared_data / "clips" / "crema_d")
    assert {item.labels for item in clips} == {(), *((name,) for name in EMOTIONS if name != "surprise")}
    stills = SOURCES.get("face-stills")(shared_data / "faces")
    assert Counter(item.labels for item in stills)[("fear",)] == 21
    people = {item.speaker: set() for item in stills}
    for item in stills:
        people[item.speaker].add(item.split)
    assert all(len(splits) == 1 for splits in people.values())
