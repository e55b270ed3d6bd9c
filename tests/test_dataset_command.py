"""`lamb dataset`: raw items through the extractors, feature files through their readers, a summary that can be checked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.dataset import load_dataset
from data.errors import InputError
from data.sources import SOURCES, LabelledItem, Split
from data.spec import MODALITIES
from data.table import read_table
from extractors.acoustic import COLUMNS as COVAREP_COLUMNS
from extractors.embedding import EmbeddingSettings, WordVectors, tokens_track
from pipeline.dataset import BuildOptions, build_dataset
from pipeline.dataset_extraction import BuildReport
from pipeline.dataset_report import summarise
from pipeline.dataset_samples import choose_splits
from pipeline.settings import PipelineSettings
from pipeline.video import Extractors
from tests.media_maker import ffmpeg
from tests.planted_dataset import NAMES, SIZES, planted_folder


def lamb(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def comments(tmp_path: Path) -> Path:
    folder = tmp_path / "comments"
    folder.mkdir()
    (folder / "labels.txt").write_text("anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise")
    (folder / "train.tsv").write_text("so happy and shocked\t3,6\ta1\nwhatever\t4\ta2\n")
    (folder / "dev.tsv").write_text("this is awful\t0,1\tb1\n")
    (folder / "test.tsv").write_text("i am so sad\t5\tc1\n\u2620\u2620\t2\tc2\n")
    return folder


def test_texts_become_word_vectors(comments: Path, tmp_path: Path) -> None:
    done = lamb("dataset", "build", "goemotions", comments, "--neutral", "--output", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    assert "2 train, 1 valid, 2 test" in done.stdout
    held = load_dataset(tmp_path / "set")
    assert held.header.label_set.names[-1] == "neutral"
    first, second = held.splits["train"]
    expected = tokens_track("so happy and shocked", WordVectors.open(EmbeddingSettings()))
    np.testing.assert_array_equal(first.values["text"], expected.values)
    assert held.header.label_set.decode(first.labels) == ["happiness", "surprise"]  # type: ignore[arg-type]
    assert held.header.label_set.decode(second.labels) == ["neutral"]  # type: ignore[arg-type]
    # what no vector is known for stays in, with nothing observed: the published test set keeps its size
    assert held.splits["test"][1].presence == (False, False, False)
    assert [path.name for path in tmp_path.iterdir() if path != comments] == ["set"]


@pytest.fixture
def voices(tmp_path: Path, speech_wav: Path) -> Path:
    """Three pieces of a reading as recordings of three actors, and a file that is no sound."""
    folder = tmp_path / "ravdess"
    folder.mkdir()
    for number, (actor, emotion) in enumerate(((1, "05"), (17, "03"), (20, "04"))):
        ffmpeg("-ss", 5 * number, "-t", 3, "-i", speech_wav, folder / f"03-01-{emotion}-01-01-01-{actor:02d}.wav")
    (folder / "03-01-06-01-01-01-02.wav").write_bytes(b"not a sound")
    return folder


def build(source: str, place: Path | None, output: Path, options: BuildOptions, said: list[str] | None = None):
    report = BuildReport((said if said is not None else []).append, bars=False)
    return build_dataset(source, place, output, options, lambda: Extractors(PipelineSettings(threads=1)), report)


def test_sounds_become_acoustic_columns_and_a_stopped_build_goes_on(
    voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.folder

    given: list[str] = []
    real = pipeline.folder.FolderRun._give

    def counted(self, crew, file, stage):
        given.append(f"{file.item.name} {stage}")
        if len(given) == 6:
            raise KeyboardInterrupt
        real(self, crew, file, stage)

    monkeypatch.setattr(pipeline.folder.FolderRun, "_give", counted)
    options = BuildOptions(modalities=("audio",))
    with pytest.raises(KeyboardInterrupt):
        build("ravdess", voices, tmp_path / "set", options)
    assert not (tmp_path / "set").exists()
    said: list[str] = []
    counts = build("ravdess", voices, tmp_path / "set", options, said)
    assert counts == {"train": 1, "valid": 1, "test": 1}
    assert len(given) < 6 + 3 * 4, "what was done before the stop is not done again"
    assert any("03-01-06" in line and "left out" in line for line in said)
    held = load_dataset(tmp_path / "set")
    assert sum(held.header.notes["dropped"].values()) == 1
    sample = held.splits["train"][0]
    assert sample.group == "actor01"
    alone = Extractors(PipelineSettings(threads=1)).extract_one("acoustic", voices / "03-01-05-01-01-01-01.wav")
    whole, spoken = alone.tracks["audio"], sample.values["audio"]
    first = next(i for i in range(len(whole)) if np.array_equal(whole.values[i : i + len(spoken)], spoken))
    assert sample.valid["audio"][[0, -1]].all(), "from the first to the last moment of the voice"
    assert 0 < first < 100
    assert len(spoken) > 150
    assert len(sample.values["text"]) == len(sample.values["visual"]) == 0
    # the same recordings under other labels: nothing is extracted again
    given.clear()
    table = voices / "labels.csv"
    rows = [f"{path.name},{n % 2}" for n, path in enumerate(sorted(voices.glob("*.wav"))) if "-06-" not in path.name]
    table.write_text("file,loud\n" + "\n".join(rows))
    monkeypatch.setattr(pipeline.folder.FolderRun, "_give", lambda *a: given.append("more work"))
    again = BuildOptions(modalities=("audio",), cache=tmp_path / "set.cache")
    assert sum(build(str(table), None, tmp_path / "other", again).values()) == 3
    assert given == []
    other = load_dataset(tmp_path / "other")
    assert other.header.label_set.names == ("loud",)
    found = {s.id: s for split in other.splits.values() for s in split}
    np.testing.assert_array_equal(found["03-01-05-01-01-01-01.wav"].values["audio"], sample.values["audio"])


def test_a_stopped_build_of_pictures_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids with a dot in them."""
    import pipeline.starter_data
    from data.track import FeatureTrack

    pictures = tmp_path / "faces"
    pictures.mkdir()
    names = [f"Person{i}_0001.jpg" for i in range(3)]
    (pictures / "labels.csv").write_text("image,emotion\n" + "".join(f"{name},fear\n" for name in names))
    for number, name in enumerate(names):
        (pictures / name).write_bytes(b"picture %d" % number)
    spec = Extractors(PipelineSettings()).specs["visual"]
    seen: list[str] = []

    def still(item, settings):
        seen.append(item.path.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return FeatureTrack.from_rate(np.ones((2, 35), np.float32), replace(spec, rate_hz=25.0))

    monkeypatch.setattr(pipeline.starter_data, "still_track", still)
    options = BuildOptions(modalities=("visual",))
    with pytest.raises(KeyboardInterrupt):
        build("face-stills", pictures, tmp_path / "set", options)
    counts = build("face-stills", pictures, tmp_path / "set", options)
    assert sum(counts.values()) == 3
    assert len(seen) == 2 + 2  # the first was kept


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory, feat_media: Path, speech_wav: Path) -> Path:
    """Four videos of a face over different pieces of a reading, and a table of parts of them."""
    folder = tmp_path_factory.mktemp("talks")
    for number in range(4):
        ffmpeg(
            "-i", feat_media / "WolfgangLanger_Pexels.mp4", "-ss", str(5 * number), "-i", speech_wav, "-t", "5",
            "-map", "0:v", "-map", "1:a", "-vf", "scale=-2:240", "-r", "10", "-pix_fmt", "yuv420p",
            folder / f"talk{number}.mp4",
        )  # fmt: skip
    return folder


def test_parts_of_videos_are_what_a_slice_of_the_whole_is(talks: Path, tmp_path: Path) -> None:
    """Against the tracks of `Extractors.analyse`: values of an interval, words as written, means over words."""
    table = tmp_path / "labels.csv"
    written = "It was the best of times, it was the worst of times."
    rows = [
        f"talk{n}.mp4,{start},{start + 2},{text},{n % 2},1" for n in range(4) for start, text in ((0, ""), (2.5, ""))
    ]
    rows[0] = f'talk0.mp4,0,2,"{written}",0,1'
    table.write_text("file,start_s,end_s,text,anger,joy\n" + "\n".join(rows))
    build(str(table), talks, tmp_path / "set", BuildOptions(n_workers=2))
    held = load_dataset(tmp_path / "set")
    by_id = {s.id: s for split in held.splits.values() for s in split}
    assert len(by_id) == 8
    assert held.header.notes["split_by"] == "file"
    assert summarise(tmp_path / "set")["leaks"]["files"] == 0
    extractors = Extractors(PipelineSettings(threads=1))
    whole = extractors.analyse(talks / "talk1.mp4").tracks
    for name, sample in (("talk1.mp4:0.000-2.000", (0.0, 2.0)), ("talk1.mp4:2.500-4.500", (2.5, 4.5))):
        for modality in MODALITIES:
            expected = whole[modality].slice(*sample)
            np.testing.assert_array_equal(by_id[name].values[modality], expected.values)
            np.testing.assert_array_equal(by_id[name].valid[modality], expected.valid)
    expected = tokens_track(written, extractors.vectors)
    np.testing.assert_array_equal(by_id["talk0.mp4:0.000-2.000"].values["text"], expected.values)

    build(str(table), talks, tmp_path / "aligned", BuildOptions(aligned=True, cache=tmp_path / "set.cache"))
    aligned = load_dataset(tmp_path / "aligned")
    assert aligned.header.aligned
    sample = next(s for split in aligned.splits.values() for s in split if s.id == "talk1.mp4:2.500-4.500")
    text, audio = (whole[name].slice(2.5, 4.5) for name in ("text", "audio"))
    assert len(text) >= 3
    middle = (audio.start_s + audio.end_s) / 2
    for word in range(len(text)):
        rows_of_word = audio.valid & (middle >= text.start_s[word]) & (middle < text.end_s[word])
        assert sample.valid["audio"][word] == rows_of_word.any()
        if rows_of_word.any():
            column = COVAREP_COLUMNS.index("peakSlope")
            mean = audio.values[rows_of_word, column].astype(np.float64).mean()
            assert sample.values["audio"][word, column] == pytest.approx(mean, rel=1e-5)


def test_a_table_with_mistakes_builds_nothing_and_leaving_rows_out_is_asked_for(talks: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for path in talks.glob("*.mp4"):
        (tmp_path / "videos" / path.name).symlink_to(path)
    (tmp_path / "videos" / "letter.mp4").write_text("Dear Sir or Madam,\n" * 100)
    table = tmp_path / "videos" / "labels.csv"
    rows = [f"talk{n}.mp4,0,2,{n % 2}" for n in range(4)]
    table.write_text(
        "file,start_s,end_s,joy\n" + "\n".join([*rows, "letter.mp4,0,2,1", "talk0.mp4,4,99,1", "talk9.mp4,0,1,1"])
    )
    done = lamb("dataset", "build", table, "--output", tmp_path / "set")
    assert done.returncode == 2
    problems = [line for line in done.stderr.splitlines() if line.startswith("row ")]
    assert [line.split(":")[0] for line in problems] == ["row 6", "row 7", "row 8"]
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set.cache").exists()
    table.write_text("file,start_s,end_s,joy\n" + "\n".join([*rows, "letter.mp4,0,2,1"]))
    chosen = ("--skip-bad", "--modalities", "audio", "--no-keep")
    done = lamb("dataset", "build", tmp_path / "videos", "--output", tmp_path / "set", *chosen)
    assert done.returncode == 0, done.stderr
    assert "letter.mp4" in done.stderr
    assert "left out: 1 rows" in done.stdout
    assert "train" in done.stdout
    assert not (tmp_path / "set.cache").exists()
    there = {path.name for path in (tmp_path / "videos").iterdir()}
    assert there == {"letter.mp4", "labels.csv", *(f"talk{n}.mp4" for n in range(4))}


def test_speakers_and_equal_contents_are_kept_together(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.mp4" for n in range(40)]
    items = [
        LabelledItem(f"{n}", None, ("fear",) if n % 4 == 0 else (), f"speaker{n // 4}" if n < 32 else "", None, path)
        for n, path in enumerate(paths)
    ]
    contents = {
        path: f"content{n if n != 39 else 0}" for n, path in enumerate(paths)
    }  # the last is a copy of the first
    shares: dict[Split, float] = {"train": 0.7, "valid": 0.15, "test": 0.15}
    found, kept_apart = choose_splits(items, contents, shares)
    assert kept_apart == "speaker where known, else file"
    assert [item.id for item in found] == [item.id for item in items]
    of_speaker: dict[str, set[str | None]] = {}
    for item in found[:32]:
        of_speaker.setdefault(item.speaker, set()).add(item.split)
    assert all(len(splits) == 1 for splits in of_speaker.values())
    assert found[39].split == found[0].split
    for split, share in (("train", 0.7), ("valid", 0.15), ("test", 0.15)):
        held = [item for item in found if item.split == split]
        assert len(held) / 40 == pytest.approx(share, abs=0.08)
        assert sum(bool(item.labels) for item in held) / 10 == pytest.approx(share, abs=0.16)
    with pytest.raises(InputError, match="at least 3 speakers"):
        choose_splits([replace(item, speaker="one") for item in items], contents, shares)
    three, _ = choose_splits([items[0], items[4], items[8]], contents, shares)
    assert {item.split for item in three} == {"train", "valid", "test"}
    # an interviewer in every file ties all together: then it is the speakers that are kept apart
    spoken = [
        replace(item, id=f"{item.id}{who}", speaker=who) for item in items[:8] for who in ("host", f"guest {item.id}")
    ]
    held, kept_apart = choose_splits(spoken, contents, shares)
    assert "several speakers" in kept_apart
    assert len({item.split for item in held if item.speaker == "host"}) == 1
    assert {item.split for item in held} == {"train", "valid", "test"}


def test_import_writes_a_table_that_builds_the_same(voices: Path, tmp_path: Path) -> None:
    done = lamb("dataset", "import", "ravdess", voices, "--output", tmp_path / "ravdess.csv")
    assert done.returncode == 0, done.stderr
    found = read_table(tmp_path / "ravdess.csv")
    assert found.problems == ()
    items = SOURCES.get("ravdess")(voices)
    assert [(i.split, i.labels, i.speaker) for i in found.items] == [(i.split, i.labels, i.speaker) for i in items]
    again = lamb("dataset", "import", "ravdess", voices, "--output", tmp_path / "ravdess.csv")
    assert again.returncode == 2
    assert "there is one" in again.stderr


def test_a_summary_that_can_be_held_against_the_data(tmp_path: Path) -> None:
    folder = planted_folder(tmp_path / "set")
    held = load_dataset(folder)
    done = lamb("dataset", "check", folder, "--json")
    summary = json.loads(done.stdout)
    for split, n in SIZES.items():
        found = summary["splits"][split]
        labels = held.labels(split)
        assert found["samples"] == n
        assert found["positives"] == dict(zip(NAMES, labels.sum(axis=0).astype(int).tolist(), strict=True))
        assert found["without_label"] == int((~labels.any(axis=1)).sum())
        assert found["unobserved"] == (split == "test")
        steps = [s.n_steps("audio") for s in held.splits[split] if any(s.presence)]
        assert found["modalities"]["audio"]["steps_median"] == np.median(steps)
    together = np.concatenate([held.labels(split) for split in SIZES])
    assert summary["cooccurrence"][0][1] == int((together[:, 0] * together[:, 1]).sum())
    assert summary["leaks"] == {"groups": 0, "files": 0, "ids": 0, "contents": 0}
    assert "groups in more than one split: 0" in lamb("dataset", "check", folder).stdout


def test_leaks_are_found(tmp_path: Path) -> None:
    from data.dataset import Reading, save_dataset
    from tests.planted_dataset import planted_header, planted_samples

    samples = list(planted_samples())
    leaked = replace(samples[0][1], id="other", group="someone")
    save_dataset(Reading(planted_header(), [*samples, ("test", leaked), ("test", samples[1][1])]), tmp_path / "set")
    leaks = summarise(tmp_path / "set")["leaks"]
    assert leaks == {"groups": 1, "files": 1, "ids": 1, "contents": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "."], "or a source among"),
        (["ravdess"], "folder of 'ravdess'"),
        (["labels.csv"], "there is none"),
        (["goemotions", ".", "--shares", "1,2"], "--shares"),
        (["goemotions", "nowhere"], "GoEmotions"),
        (["goemotions", ".", "--emotions", "x.csv"], "--emotions"),
        (["mosei-csd", "nowhere"], "Expected"),
        (["mosei-csd", "nowhere", "--emotions", "x.csv"], "Expected"),
        (["goemotions", ".", "--modalities", "smell"], "smell"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = lamb("dataset", "build", *arguments, "--output", tmp_path / "set")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()


def test_nothing_is_written_over(comments: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="there is one"):
        build("goemotions", comments, tmp_path / "set", BuildOptions())
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.txt"]
