"""Several files through speech recognition and the model together, as on a GPU: what each file gets is its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from extractors.speech import SpeechSettings, transcribe, transcribe_many
from pipeline.parts import SpeechPart, unpack
from pipeline.predict import Predictor, load_checkpoint
from pipeline.settings import PipelineSettings
from pipeline.stages import Item, Job, Plan, StageRunner
from pipeline.store import LocalStore
from pipeline.video import Extractors
from pipeline.worker import perform
from tests.fake_run import complete, fake_run
from tests.media_maker import ffmpeg, picture_and_tone
from tests.test_folder_run import calls, results


@pytest.fixture(scope="module")
def voices(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pieces of a reading, a tone, and a file that is none."""
    folder = tmp_path_factory.mktemp("voices")
    for number, start_s in enumerate((0, 12)):
        ffmpeg("-ss", start_s, "-t", 6, "-i", speech_wav, folder / f"{number}.wav")
    picture_and_tone(folder / "tone.mp4", seconds=1)
    return folder


def test_recordings_in_one_batch_give_the_words_of_each(speech_wav: Path) -> None:
    import librosa

    samples, _ = librosa.load(speech_wav, sr=16_000)
    recordings = [samples[: 12 * 16_000], np.zeros(32_000, np.float32), samples[12 * 16_000 : 24 * 16_000]]
    together = transcribe_many(recordings, SpeechSettings())
    for alone, found in zip([transcribe(one, SpeechSettings()) for one in recordings], together, strict=True):
        assert [word.text for word in found.words] == [word.text for word in alone.words]
        assert found.segments == alone.segments
        assert found.weights_digest == alone.weights_digest
        starts = np.array([word.start_s for word in alone.words])
        assert np.allclose([word.start_s for word in found.words], starts, atol=0.25)
    assert len(together[0].words) > 20
    assert not together[1].words


def test_a_batch_of_tasks_is_what_they_are_alone(voices: Path, tmp_path: Path) -> None:
    extractors = Extractors(PipelineSettings(device="cpu"))

    def load() -> Predictor:
        return Predictor(load_checkpoint(None, "cpu"), extractors)

    plan = Plan(extractors, "labels", "0")
    found: dict[str, dict[str, bytes]] = {}
    items = []
    for path in sorted(voices.iterdir()):
        stamp = path.stat()
        items.append(Item(path.name, str(path), stamp.st_size, stamp.st_mtime_ns, stamp.st_ino))
    for size in (1, 3):
        runner = StageRunner(plan, extractors, LocalStore(tmp_path / str(size)), load)
        tasks = [{"item": vars(item), "open_s": 0.0, "opened": runner.open(item).to_dict()} for item in items]
        gone = Item("gone.wav", str(voices / "gone.wav"), 1, 1, 1)
        for stage in ("speech", "acoustic", "facial", "finish"):
            for begin in range(0, len(tasks), size):
                batch = [{**task, "stage": stage} for task in tasks[begin : begin + size]]
                lines = perform(runner, [*batch, {**batch[0], "item": vars(gone)}], lambda event: None)
                assert [set(line) for line in lines[:-1]] == [
                    {"seconds"} if stage != "finish" else {"seconds", "outcome"}
                ] * len(batch)
                if stage != "finish":
                    assert lines[-1]["error"]["code"] == "vanished", "one bad file does not spoil the batch"
        for item in items:
            opened = runner.open(item)
            speech, _ = unpack(runner.store.read(plan.place("speech", opened)) or b"")
            record = json.loads(runner.store.read(plan.place("finish", opened)) or b"")
            assert isinstance(speech, SpeechPart)
            found.setdefault(item.name, {})[str(size)] = (" ".join(w.text for w in speech.words), record)  # type: ignore[assignment]
    for name, by_size in found.items():
        (alone, record), (together, batched) = by_size["1"], by_size["3"]
        assert together == alone, name
        assert [row["labels"] for row in batched["utterances"]] == [row["labels"] for row in record["utterances"]]
    assert "best of times" in found["0.wav"]["3"][0]


def test_a_job_alone_and_the_same_record(voices: Path, tmp_path: Path) -> None:
    """``finish`` of one file is ``finish_many`` of one."""
    extractors = Extractors(PipelineSettings(device="cpu"))
    plan = Plan(extractors, "features", only="acoustic")
    runner = StageRunner(plan, extractors, LocalStore(tmp_path))
    path = voices / "tone.mp4"
    stamp = path.stat()
    item = Item("tone.mp4", str(path), stamp.st_size, stamp.st_mtime_ns, stamp.st_ino)
    opened = runner.open(item)
    runner.run("acoustic", item, opened)
    record = runner.finish(Job(item, opened, 0.5))
    assert record["outcome"] == "ok"
    assert set(record["seconds"]) == {"open", "acoustic", "finish"}
    assert (tmp_path / "features" / "tone.mp4" / "audio.safetensors").is_file()


def test_a_lane_of_batches_ends_like_single_files(tmp_path: Path) -> None:
    """With the scheduler's GPU lane and fake workers: same bytes, and one file that kills its worker costs only itself."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(40):
        (videos / f"{number:02}.mp4").write_text(f"content {number}")
    complete(fake_run(videos, tmp_path / "one", tmp_path / "marks1", n_workers=2))
    complete(fake_run(videos, tmp_path / "gpu", tmp_path / "marks2", n_workers=2, gpu=True))
    assert results(tmp_path / "gpu") == results(tmp_path / "one")
    assert calls(tmp_path / "marks2") == calls(tmp_path / "marks1")
    (videos / "die.mp4").write_text("die in speech")
    done = complete(fake_run(videos, tmp_path / "again", tmp_path / "marks3", n_workers=2, gpu=True))
    assert {one.name: one.reasons for one in done if one.outcome == "failed"} == {"die.mp4": ("worker_died",)}
    assert len(done) == 41
    assert os.path.exists(tmp_path / "again" / "labels.parquet")
