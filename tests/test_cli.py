"""The command line as a stranger uses it: right and wrong input, one document, one line, the right exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.media_maker import ffmpeg, moving_picture, picture_and_tone, tone

LABELS = ["anger", "disgust", "fear", "happiness", "sadness", "surprise"]


def lamb(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the real command in its own process."""
    command = [sys.executable, "-m", "pipeline.cli", *map(os.fspath, map(str, arguments))]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload]


def check_document(text: str) -> dict:
    """Exactly one JSON document of schema 1, with every promised key and type."""
    whole = json.loads(text)
    assert whole["schema"] == 1
    for record in whole["files"]:
        assert set(record) == {"file", "sha256", "duration_s", "outcome", "reasons", "error", "utterances", "overall"}
        assert record["outcome"] in ("ok", "partial", "failed")
        assert (record["error"] is not None) == (record["outcome"] == "failed")
        assert bool(record["reasons"]) == (record["outcome"] == "partial")
        for row in record["utterances"]:
            assert 0 <= row["start_s"] < row["end_s"]
            assert list(row["probabilities"]) == LABELS
            assert all(0 <= p <= 1 for p in row["probabilities"].values())
            thresholds = whole["checkpoint"]["thresholds"]
            for name in LABELS:
                if abs(row["probabilities"][name] - thresholds[name]) > 1e-3:
                    assert (name in row["labels"]) == (row["probabilities"][name] > thresholds[name])
            assert set(row["coverage"]) == {"text", "audio", "visual"}
            assert all(0 <= c <= 1 for c in row["coverage"].values())
        assert set(record["overall"]) == {"probabilities", "labels"}
    return whole


@pytest.fixture(scope="module")
def talking(feat_media: Path, speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds: a face in all frames, read speech in the first four."""
    clip = tmp_path_factory.mktemp("talking") / "talking.mp4"
    ffmpeg(
        "-i", feat_media / "WolfgangLanger_Pexels.mp4", "-i", speech_wav, "-map", "0:v", "-map", "1:a",
        "-af", "atrim=end=4,apad", "-t", "6", "-pix_fmt", "yuv420p", clip,
    )  # fmt: skip
    return clip


def test_predict_prints_a_timeline(talking: Path) -> None:
    done = lamb("predict", talking)
    assert done.returncode == 0, done.stderr
    for word in ("talking.mp4", "best", "times", "overall", "happine", "text", "voice", "face"):
        assert word in done.stdout
    for stage in ("speech", "acoustic", "facial", "lamb"):
        assert f"{stage} done" in done.stderr
    assert "Traceback" not in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 128


def test_every_face_gets_its_own_timeline(feat_media: Path, tmp_path: Path) -> None:
    pair = tmp_path / "pair.mp4"
    ffmpeg(
        "-i", feat_media / "WolfgangLanger_Pexels.mp4", "-t", "2", "-filter_complex",
        "[0:v]scale=-2:360,split[a][b];[b]hflip[c];[a][c]hstack", "-r", "10", "-pix_fmt", "yuv420p", pair,
    )  # fmt: skip
    done = lamb("predict", pair, "--face", "all", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    rows = check_document(done.stdout)["files"][0]["utterances"]
    assert sorted({row["face"] for row in rows}) == [0, 1]
    for face in (0, 1):
        spans = [(row["start_s"], row["end_s"]) for row in rows if row["face"] == face]
        assert sum(end - start for start, end in spans) == pytest.approx(2.0, abs=0.3)
    followed = lamb("predict", pair, "--json", "--quiet")
    assert all(
        "face" not in row or row["face"] is None for row in check_document(followed.stdout)["files"][0]["utterances"]
    )


def test_predict_json_is_one_document(talking: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in talking.parent.iterdir()}
    done = lamb("predict", talking, "--json", "--quiet", "--output", tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr == ""
    record = check_document(done.stdout)["files"][0]
    assert record["outcome"] == "ok"
    spoken = [row for row in record["utterances"] if row["text"]]
    silent = [row for row in record["utterances"] if not row["text"]]
    assert "best of times" in " ".join(row["text"] for row in spoken).lower()
    assert all(row["coverage"]["audio"] > 0.5 and row["coverage"]["visual"] > 0.9 for row in spoken)
    assert silent, "the last two seconds have a face and no speech"
    assert all(row["coverage"]["text"] == row["coverage"]["audio"] == 0 for row in silent)
    written = list((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [f"talking.mp4.{record['sha256'][:8]}.json"]
    assert check_document(written[0].read_text())["files"][0] == record
    assert {path: path.read_bytes() for path in talking.parent.iterdir()} == before, "nothing beside the user's file"


def test_extract_writes_three_tracks(talking: Path, tmp_path: Path) -> None:
    from data import FeatureTrack
    from extractors.acoustic import COLUMNS as ACOUSTIC
    from extractors.facial import COLUMNS as FACIAL

    for _ in range(2):  # a second run replaces the first
        done = lamb("extract", talking, "--output", tmp_path, "--quiet")
        assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    tracks = {name: FeatureTrack.load(folder / name) for name in ("text", "audio", "visual")}
    assert tracks["audio"].spec.columns == ACOUSTIC
    assert tracks["visual"].spec.columns == FACIAL
    assert (tracks["text"].spec.dim, tracks["audio"].spec.dim, tracks["visual"].spec.dim) == (50, 74, 35)
    assert len(tracks["audio"]) == pytest.approx(600, abs=5)
    record = json.loads((folder / "clip.json").read_text())
    assert len(record["words"]) == len(tracks["text"])
    assert record["outcome"] == "ok"


def test_one_stage_alone_and_as_a_table(talking: Path, tmp_path: Path) -> None:
    import csv

    from data import FeatureTrack
    from extractors.acoustic import COLUMNS

    done = lamb("extract", talking, "--only", "acoustic", "--csv", "--quiet", "--output", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = Path(done.stdout.strip())
    assert folder.name.endswith(".acoustic")
    assert {path.name for path in folder.iterdir()} == {"audio.csv", "audio.json", "audio.safetensors", "clip.json"}
    track = FeatureTrack.load(folder / "audio")
    with (folder / "audio.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert tuple(header) == ("start_s", "end_s", "valid", *COLUMNS)
    assert len(rows) == len(track) == pytest.approx(600, abs=5)
    assert track.defined is not None
    for i in (0, 100, len(rows) - 1):
        assert float(rows[i][0]) == pytest.approx(track.start_s[i], abs=1e-4)
        assert [cell != "" for cell in rows[i][3:]] == track.defined[i].tolist()
        written = [float(cell) for cell in rows[i][3:] if cell]
        assert written == pytest.approx(track.values[i][track.defined[i]].tolist(), rel=1e-5)
    assert any(row[3] for row in rows), "some pitch"
    assert not all(row[3] for row in rows), "and some moments without"
    compat = lamb("extract", talking, "--only", "acoustic", "--acoustic-mode", "compat", "-q", "-o", tmp_path / "c")
    assert FeatureTrack.load(Path(compat.stdout.strip()) / "audio").spec.version.endswith("-compat")
    refused = lamb("predict", talking, "--acoustic-mode", "compat", "--quiet")
    assert refused.returncode == 2
    assert "compat" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_compat_columns_are_those_of_the_first_channel(tmp_path: Path) -> None:
    """Two voices, one a channel: the original takes the first, and a mean would have neither's pitch."""
    import numpy as np
    import soundfile

    from data import FeatureTrack
    from extractors.acoustic import covarep_features
    from tests.acoustic_signals import voice

    stereo = np.stack([voice(110.0, rd=0.8), 0.8 * voice(190.0, rd=1.8)], axis=1)
    soundfile.write(tmp_path / "two.wav", stereo, 16000)
    samples, rate_hz = soundfile.read(tmp_path / "two.wav")
    expected = covarep_features(samples, rate_hz, "compat")
    mode = ("--acoustic-mode", "compat", "-q")
    alone = lamb("extract", tmp_path / "two.wav", "--only", "acoustic", *mode, "-o", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    found = FeatureTrack.load(Path(alone.stdout.strip()) / "audio")
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.values[50, 0] == pytest.approx(110.0, abs=1.5)


def test_plot_draws_and_replaces_only_its_own(talking: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    for _ in range(2):
        done = lamb("plot", talking, "--output", picture, "--from", "1", "--to", "3")
        assert (done.returncode, done.stdout.strip()) == (0, str(picture)), done.stderr
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list(tmp_path.iterdir()) == [picture]
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"\x89PNG but not ours")
    for arguments in (
        (talking, "--output", mine),
        (talking, "--output", tmp_path / "none" / "a.png"),
        (talking, "--output", picture, "--from", "100"),
        (tmp_path / "none.mp4", "--output", picture),
        (talking, "--output", tmp_path / "a.jpg"),
        (_without_samples(tmp_path / "no.wav"), "--output", picture),
    ):
        done = lamb("plot", *arguments)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert "0..0.0 s" not in done.stderr
    assert mine.read_bytes() == b"\x89PNG but not ours"
    assert not (tmp_path / "a.jpg").exists()


def _without_samples(path: Path) -> Path:
    import numpy as np
    import soundfile

    soundfile.write(path, np.zeros(0), 16000)
    return path


@dataclass(frozen=True)
class Case:
    """An input file (made by ``make``, or missing) and what must come of it."""

    id: str
    outcome: str
    code: str = ""
    reasons: tuple[str, ...] = ()


CASES = [
    Case("missing.mp4", "failed", "not_found"),
    Case("folder", "failed", "not_a_file"),
    Case("zero.mp4", "failed", "empty"),
    Case("letter.mp4", "failed", "not_media"),
    Case("cut.mp4", "failed", "truncated"),
    Case("playlist.mp4", "failed", "playlist"),
    Case("cut_with_index.mp4", "partial", reasons=("no_speech", "no_face", "truncated")),
    Case("sound.wav", "partial", reasons=("no_speech", "no_video")),
    Case("picture.mp4", "partial", reasons=("no_audio", "no_face")),
    Case("silent.mp4", "partial", reasons=("silence", "no_face")),
    Case("new\nline ünï.mp4", "partial", reasons=("no_speech", "no_face")),
    Case("-dash.mp4", "partial", reasons=("no_speech", "no_face")),
    Case("ten_fps.mp4", "partial", reasons=("no_audio", "no_face")),
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    (folder / "folder").mkdir()
    (folder / "zero.mp4").touch()
    (folder / "letter.mp4").write_text("Dear Sir or Madam,\n" * 100)
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    whole = picture_and_tone(folder / "new\nline ünï.mp4", seconds=2)
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shutil.copy(whole, folder / "-dash.mp4")
    indexed = picture_and_tone(folder / "indexed.mp4", seconds=4, options=("-movflags", "+faststart"))
    (folder / "cut_with_index.mp4").write_bytes(indexed.read_bytes()[: indexed.stat().st_size // 2])
    tone(folder / "sound.wav", seconds=2)
    moving_picture(folder / "picture.mp4")
    moving_picture(folder / "ten_fps.mp4", rate=10)
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=2", "-f", "lavfi", "-i", "anullsrc=r=44100:cl=mono",
        "-t", "2", "-pix_fmt", "yuv420p", folder / "silent.mp4",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def documents(cases: Path) -> dict[str, dict]:
    """All cases in one run of the command, started inside the folder so that names stand as a user types them."""
    done = lamb("predict", "--json", "--quiet", "--", *[case.id for case in CASES], cwd=cases)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    records = check_document(done.stdout)["files"]
    assert [record["file"] for record in records] == [case.id for case in CASES]
    return {record["file"]: record for record in records}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id.replace("\n", "_"))
def test_outcome_of_each_input(case: Case, documents: dict[str, dict]) -> None:
    record = documents[case.id]
    assert record["outcome"] == case.outcome, record
    assert tuple(record["reasons"]) == case.reasons
    if case.code:
        assert record["error"]["code"] == case.code
        assert "\n" not in record["error"]["message"]


def test_failures_are_one_line_each_without_traceback(cases: Path) -> None:
    done = lamb("predict", "--quiet", "zero.mp4", "missing.mp4", "letter.mp4", cwd=cases)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("failed ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predict",), "Missing argument"),
        (("predict", "a.mp4", "--no-such-option"), "No such option"),
        (("predict", "a.mp4", "--checkpoint", "/nowhere/model"), "Expected a LAMB checkpoint at"),
        (("predict", "a.mp4", "--asr-engine", "siri"), "Expected a speech engine among"),
        (("predict", "a.mp4", "--asr-model", "enormous"), "enormous"),
        (("predict", "a.mp4", "--vectors", "word2vec"), "word2vec"),
        (("predict", "a.mp4", "--weights", "face-landmarker"), "NAME=PATH"),
        (("predict", "a.mp4", "--weights", "face-landmarker=/nowhere"), "nothing is there"),
        (("predict", "a.mp4", "--max-rate-hz", "0"), "max_rate_hz"),
        (("predict", "a.mp4", "--output", "/proc/nowhere"), "Expected a writable folder"),
        (("extract", "a.mp4", "--output", "/proc/nowhere"), "Expected a writable folder"),
        (("predict", "-dash.mp4"), "No such option"),
        (("weights", "fetch", "nothing"), "Expected weights among"),
    ],
)
def test_wrong_use_exits_with_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = lamb(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_one_document_even_when_nothing_can_start(tmp_path: Path) -> None:
    done = lamb("predict", "a.mp4", "--json", "--checkpoint", tmp_path / "none", cwd=tmp_path)
    assert done.returncode == 2
    whole = check_document(done.stdout)
    assert (whole["checkpoint"], whole["files"], whole["error"]["code"]) == (None, [], "checkpoint")


def starter_copy(folder: Path) -> Path:
    from pipeline.predict import starter_checkpoint

    for ending in (".json", ".safetensors"):
        source = starter_checkpoint().with_suffix(ending)
        shutil.copy(source, folder / f"copy{ending}")
    return folder / "copy"


def test_checkpoint_of_another_spec_is_refused_by_name(tmp_path: Path) -> None:
    copy = starter_copy(tmp_path)
    record = json.loads(copy.with_suffix(".json").read_text())
    from data import FeatureSpec

    spec = {key: value for key, value in record["specs"]["audio"].items() if key != "fingerprint"} | {
        "version": "0-old"
    }
    record["specs"]["audio"] = spec | {"fingerprint": FeatureSpec.from_dict(spec).fingerprint()}
    copy.with_suffix(".json").write_text(json.dumps(record))
    done = lamb("predict", "a.mp4", "--checkpoint", copy)
    assert done.returncode == 2
    assert "audio" in done.stderr
    assert "version 0-old expected" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_corrupted_checkpoint_and_weights_are_named(tmp_path: Path) -> None:
    copy = starter_copy(tmp_path)
    content = bytearray(copy.with_suffix(".safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    copy.with_suffix(".safetensors").write_bytes(bytes(content))
    done = lamb("predict", "a.mp4", "--checkpoint", copy)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "sha256" in done.stderr

    from extractors.weights import resolve

    task = bytearray(resolve("face-landmarker").file("face_landmarker.task").read_bytes())
    task[1000] ^= 1
    (tmp_path / "face_landmarker.task").write_bytes(bytes(task))
    done = lamb("predict", "a.mp4", "--weights", f"face-landmarker={tmp_path / 'face_landmarker.task'}")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "corrupted" in done.stderr


def test_cuda_is_refused_where_there_is_none() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    done = lamb("predict", "a.mp4", "--device", "cuda")
    assert done.returncode == 2
    assert "none" in done.stderr


def test_doctor_and_weights_tell_the_truth() -> None:
    done = lamb("doctor", "--json")
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert "sha256" in report["weights"]["face-landmarker"]
    assert lamb("doctor").stdout.strip().endswith("no problems found")
    listed = lamb("weights", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [
        "whisper-tiny.en",
        "glove-6b-50d",
        "face-landmarker",
        "facial-emotions",
        "py-feat",
        "py-feat-v2",
    ]
    assert lamb("weights", "verify").stdout.count(": ok") == 4


@pytest.mark.shared
def test_real_clips(shared_data: Path) -> None:
    """Edge cases with their reasons, and the CREMA-D clips: a face and the sentence in each."""
    clips = shared_data / "clips"
    expected = {
        "face_in_some_frames.mp4": "ok",
        "face_no_speech.mp4": "partial",
        "speech_no_face.mp4": "partial",
        **{path.name: "ok" for path in (clips / "crema_d").glob("*.mp4")},
    }
    paths = sorted(clips.rglob("*.mp4"))
    done = lamb("predict", "--json", "--quiet", *paths)
    assert done.returncode == 0, done.stderr
    records = {Path(record["file"]).name: record for record in check_document(done.stdout)["files"]}
    assert {name: record["outcome"] for name, record in records.items()} == expected
    assert records["speech_no_face.mp4"]["reasons"] == ["no_face"]
    assert records["face_no_speech.mp4"]["reasons"] == ["no_speech"]
    for name, record in records.items():
        if "_DFA_" in name:
            assert "forget" in " ".join(row["text"] for row in record["utterances"]).lower(), name
            assert all(row["coverage"]["visual"] > 0.9 for row in record["utterances"])


def test_predict_needs_no_network(talking: Path) -> None:
    """In a network namespace of its own, without any interface up, the default run is the same."""
    isolated = ["unshare", "--map-root-user", "--net"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("network namespaces cannot be made here")
    command = [*isolated, sys.executable, "-m", "pipeline.cli", "predict", "--json", "--quiet", str(talking)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert check_document(done.stdout)["files"][0]["outcome"] == "ok"


def test_explain_goes_on_after_a_bad_file(talking: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    done = lamb("explain", bad, talking, "--output", tmp_path / "why", "--quiet")
    assert done.returncode == 1
    assert done.stderr.startswith(f"failed {bad}: ")
    assert len(done.stderr.strip().splitlines()) == 1
    written = [Path(line) for line in done.stdout.split()]
    assert [path.suffix for path in written] == [".json", ".png"]
    record = json.loads(written[0].read_text())
    for utterance in record["utterances"]:
        for label in utterance["labels"]:
            change = label["logit"] - label["baseline_logit"]
            assert abs(sum(label["attribution"].values()) - change) <= label["completeness_gap"] + 1e-3
            assert label["completeness_gap"] <= 0.01 * max(abs(change), 0.1) + 1e-3
