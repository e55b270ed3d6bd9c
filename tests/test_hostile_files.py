"""Every file of the corpus through one process with the starter checkpoint: the outcome in the table, and whatever the
file, no exception, nothing written, nobody called. Then random damage, where only that much is promised."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.media import Limits, decode_audio, ffmpeg_binary, probe, read_frames
from pipeline.discovery import find_media
from pipeline.predict import Predictor, document, load_checkpoint, to_json
from pipeline.settings import PipelineSettings
from pipeline.video import Extractors
from tests.media import surgery
from tests.media.case import Case
from tests.media.corpus import CASES, make_corpus
from tests.media.recipes import made
from tests.media.strangers import POINTERS
from tests.test_cli import check_document

LONGEST_S = 60.0  # one small file; a hang, not slowness
DOCUMENTED = set(re.findall(r"`(\w+)`", (Path(__file__).parents[1] / "docs" / "output.md").read_text()))


pytestmark = pytest.mark.xdist_group("hostile")  # what they share is made once


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(load_checkpoint(None, "cpu"), Extractors(PipelineSettings(device="cpu")))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder)
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def results(
    corpus: Path, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], float]]:
    """Record and seconds of each file; the folder and the place for temporary files are as before."""
    scratch = tmp_path_factory.mktemp("scratch")
    before, found = listing(corpus), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(scratch))
        patch.chdir(corpus)  # where anything with a relative name would land, and names are as users type them
        for case in CASES:
            started_s = time.monotonic()
            found[case.id] = predictor.predict_file(Path(case.id)), time.monotonic() - started_s
    assert listing(corpus) == before, "nothing is written beside the files"
    assert list(scratch.iterdir()) == []
    return found


def test_the_corpus_is_large_and_its_names_are_its_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_outcome(case: Case, predictor: Predictor, results: dict[str, tuple[dict[str, Any], float]]) -> None:
    record, spent_s = results[case.id]
    got = record["outcome"], (record["error"] or {}).get("code", ""), tuple(record["reasons"])
    assert got == (case.outcome, case.code, case.reasons), record["error"]
    assert spent_s < LONGEST_S
    check_record(record, predictor)


def check_record(record: dict[str, Any], predictor: Predictor) -> None:
    """What any file's record keeps: the schema, one line, codes that the documentation knows."""
    check_document(to_json(document(predictor.checkpoint_record(), [record])))
    assert {*record["reasons"], *([record["error"]["code"]] if record["error"] else [])} <= DOCUMENTED - {"internal"}
    if record["error"]:
        message = record["error"]["message"]
        assert "\n" not in message
        assert "Traceback" not in message
        assert message.startswith("Expected ")
    if record["utterances"]:
        assert max(row["end_s"] for row in record["utterances"]) < 60


def test_a_search_lists_what_can_be_labelled_and_what_fails(corpus: Path) -> None:
    assert [file.name for file in find_media(corpus).files] == sorted(case.id for case in CASES if case.listed)


FUZZED = {
    "mp4": (),
    "mov": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "mkv": (),
    "webm": ("-c:v", "libvpx", "-deadline", "realtime"),
    "avi": ("-c:v", "mpeg4"),
    "ts": (),
    "flv": ("-ar", "22050"),
    "ogv": (),
    "wmv": (),
    "wav": (),
    "mp3": (),
    "flac": (),
    "ogg": ("-c:a", "libvorbis"),
    "m4a": (),
}


@pytest.mark.parametrize("extension", FUZZED)
def test_random_damage_has_an_outcome(extension: str, predictor: Predictor, tmp_path: Path) -> None:
    whole = made(extension, *FUZZED[extension])
    for seed in range(5):  # one of each kind of damage
        path = tmp_path / f"{seed}.{extension}"
        path.write_bytes(surgery.mutated(whole, seed + 5 * len(extension)))
        assert path.read_bytes() != whole
        record = predictor.predict_file(path)
        assert record["outcome"] in ("partial", "failed")
        check_record(record, predictor)


def test_a_bomb_costs_no_more_than_its_limit(corpus: Path) -> None:
    limited = Extractors(PipelineSettings(device="cpu"))
    limited.limits = Limits(decode_s=0.2, decode_s_per_s=0.0)
    started_s = time.monotonic()
    record = Predictor(load_checkpoint(None, "cpu"), limited).predict_file(corpus / "bomb.ivf")
    assert record["error"]["code"] == "no_content"
    assert time.monotonic() - started_s < 20


@pytest.fixture
def trap() -> Iterator[tuple[int, list[bytes]]]:
    """A port on this machine, in place of the network, and what was asked there."""
    calls: list[bytes] = []
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.settimeout(1.0)
                calls.append(connection.recv(100))
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], calls
        stop.set()
        thread.join()


def test_nobody_is_called(trap: tuple[int, list[bytes]], predictor: Predictor, tmp_path: Path) -> None:
    port, calls = trap
    for case in POINTERS:
        case.make(tmp_path / case.id)
        content = (tmp_path / case.id).read_bytes()
        (tmp_path / case.id).write_bytes(content.replace(b"127.0.0.1:9", b"127.0.0.1:%d" % port))
    # The trap works: ffmpeg without our options does call, else this test could not fail.
    command = [ffmpeg_binary(), "-nostdin", "-protocol_whitelist", "file,http,tcp", "-i", tmp_path / "hls.m3u8"]
    subprocess.run([*command, "-f", "null", "-"], capture_output=True, timeout=30, check=False)
    assert calls, "the bait should have been taken"
    calls.clear()
    for case in POINTERS:
        assert predictor.predict_file(tmp_path / case.id)["outcome"] == "failed", case.id
    assert calls == []


@pytest.mark.parametrize("name", ["joined.ts", "new_clock.ts", "lost_signal.ts"])
def test_pictures_and_sound_pass_a_new_clock_together(name: str, corpus: Path) -> None:
    info = probe(corpus / name)
    frames = list(read_frames(info))
    assert len(frames) == 20
    assert np.diff([frame.start_s for frame in frames]) == pytest.approx(0.1, abs=0.02)
    with decode_audio(info) as audio:
        assert audio.duration_s == pytest.approx(frames[-1].end_s, abs=0.1)


def test_a_sample_that_is_no_number_costs_itself_only(corpus: Path) -> None:
    with decode_audio(probe(corpus / "nan.wav")) as audio:
        assert audio.damaged
        heard = np.array(audio.native)
    wave = surgery.sine(kind="<f4")
    kept = np.arange(len(wave)) % 7 != 0
    np.testing.assert_allclose(heard[kept], wave[kept], atol=1e-4)
    assert (heard[~kept] == 0).all()
