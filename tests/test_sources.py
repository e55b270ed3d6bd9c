"""Dataset readers on small folders of the true layout, and on the real ones where they are there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data.errors import InputError
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


def test_missing_dataset_is_one_line(tmp_path: Path) -> None:
    for name in ("goemotions", "ravdess", "face-stills"):
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
    stills = SOURCES.get("face-stills")(shared_data / "faces")
    assert Counter(item.labels for item in stills)[("fear",)] == 21
    people = {item.speaker: set() for item in stills}
    for item in stills:
        people[item.speaker].add(item.split)
    assert all(len(splits) == 1 for splits in people.values())
