"""`lamb dataset`: raw items through the extractors, feature files through their readers, a summary that can be checked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.dataset import load_dataset
from data.errors import InputError
from extractors.embedding import EmbeddingSettings, WordVectors, tokens_track
from pipeline.dataset import BuildOptions, build_dataset, summarise
from pipeline.settings import PipelineSettings
from pipeline.video import Extractors
from tests.planted_dataset import NAMES, SIZES, planted_folder


def lamb(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def quiet(line: str) -> None:
    pass


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
    assert not (tmp_path / "set.work").exists()


def voice(path: Path, pitch_hz: float) -> None:
    """A second of a buzzing vowel between pauses."""
    rate = 16_000
    t = np.arange(int(1.6 * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * pitch_hz * k * t) / k for k in range(1, 20))
    window = ((t > 0.3) & (t < 1.3)).astype(float)
    soundfile.write(path, 0.1 * buzz * window, rate)


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    folder = tmp_path / "ravdess"
    folder.mkdir()
    for actor, emotion, pitch_hz in ((1, "05", 120.0), (17, "03", 200.0), (20, "04", 150.0)):
        voice(folder / f"03-01-{emotion}-01-01-01-{actor:02d}.wav", pitch_hz)
    (folder / "03-01-06-01-01-01-02.wav").write_bytes(b"not a sound")
    return folder


def test_sounds_become_acoustic_columns_and_a_stopped_build_goes_on(
    voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.starter_data

    measured: list[str] = []
    real = pipeline.starter_data.voice_track

    def counted(item, settings):
        measured.append(item.id)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return real(item, settings)

    monkeypatch.setattr(pipeline.starter_data, "voice_track", counted)
    options = BuildOptions(modalities=("audio",))
    make = lambda: Extractors(PipelineSettings())  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        build_dataset("ravdess", voices, tmp_path / "set", options, make, quiet)
    assert not (tmp_path / "set").exists()
    said: list[str] = []
    counts = build_dataset("ravdess", voices, tmp_path / "set", options, make, said.append)
    assert counts == {"train": 1, "valid": 1, "test": 1}
    assert len(measured) == 3 + 2  # the first was kept; the damaged file is tried again
    assert any("03-01-06" in line for line in said)
    held = load_dataset(tmp_path / "set")
    assert sum(held.header.notes["dropped"].values()) == 1
    sample = held.splits["train"][0]
    assert sample.group == "actor01"
    pitch = sample.values["audio"][sample.defined["audio"][:, 0], 0]
    assert np.median(pitch) == pytest.approx(120, rel=0.03)
    assert len(sample.values["text"]) == len(sample.values["visual"]) == 0


def test_a_stopped_build_of_pictures_goes_on_and_leaves_other_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids with a dot in them; and a folder of the user's that happens to be called as the one for kept tracks."""
    import pipeline.starter_data
    from data.track import FeatureTrack

    pictures = tmp_path / "faces"
    pictures.mkdir()
    names = [f"Person{i}_0001.jpg" for i in range(3)]
    (pictures / "labels.csv").write_text("image,emotion\n" + "".join(f"{name},fear\n" for name in names))
    for name in names:
        (pictures / name).write_bytes(b"")
    own = tmp_path / "set.work" / "mine.txt"
    own.parent.mkdir()
    own.write_text("x")
    extractors = Extractors(PipelineSettings())
    seen: list[str] = []

    def still(item, settings):
        seen.append(item.id)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return FeatureTrack.from_rate(np.ones((2, 35), np.float32), replace(extractors.specs["visual"], rate_hz=25.0))

    monkeypatch.setattr(pipeline.starter_data, "still_track", still)
    options = BuildOptions(modalities=("visual",))
    with pytest.raises(KeyboardInterrupt):
        build_dataset("face-stills", pictures, tmp_path / "set", options, lambda: extractors, quiet)
    counts = build_dataset("face-stills", pictures, tmp_path / "set", options, lambda: extractors, quiet)
    assert sum(counts.values()) == 3
    assert len(seen) == 2 + 2  # the first was kept
    assert [path.name for path in own.parent.iterdir()] == ["mine.txt"]


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
    assert summary["leaks"] == {"groups": 0, "ids": 0, "contents": 0}
    assert "groups in more than one split: 0" in lamb("dataset", "check", folder).stdout


def test_leaks_are_found(tmp_path: Path) -> None:
    from data.dataset import Reading, save_dataset
    from tests.planted_dataset import planted_header, planted_samples

    samples = list(planted_samples())
    leaked = replace(samples[0][1], id="other", group="someone")
    save_dataset(Reading(planted_header(), [*samples, ("test", leaked), ("test", samples[1][1])]), tmp_path / "set")
    leaks = summarise(tmp_path / "set")["leaks"]
    assert leaks == {"groups": 1, "ids": 1, "contents": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "."], "Expected a source among"),
        (["goemotions", "nowhere"], "GoEmotions"),
        (["goemotions", ".", "--aligned"], "feature files"),
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
        build_dataset(
            "goemotions", comments, tmp_path / "set", BuildOptions(), lambda: Extractors(PipelineSettings()), quiet
        )
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.txt"]
