"""Speech: voice activity, windows, guards, the CTranslate2 reader, both engines. References: the read text itself,
faster-whisper's own voice activity and CTranslate2's own encoder, and the other engine."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import InputError, ToolError, WeightsError, Word
from data.registry import UnknownName
from extractors import weights
from extractors.speech import (
    SAMPLE_RATE_HZ,
    DecodedSegment,
    RawWord,
    SpeechSegment,
    SpeechSettings,
    Transcript,
    locate,
    transcribe,
)
from extractors.speech.guards import clean_words, cut_loops, fill_times, lengthen
from extractors.speech.voice_activity import (
    FRAME_S,
    FRAME_SAMPLES,
    VoiceActivity,
    VoiceActivityOptions,
    detect_speech,
    segments_from_probability,
    speech_probability,
)
from extractors.speech.windows import MAX_PAUSE_S, MAX_WINDOW_S, speech_windows

CLIP_S = 17.1  # ends in a pause of the reading
READ_TEXT = """It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the
season of Darkness"""  # Dickens, A Tale of Two Cities
ENGINE_NAMES = ("faster-whisper", "openai-whisper")


def plain(text: str) -> str:
    return re.sub(r"[^a-z']", "", text.lower())


def edit_distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@pytest.fixture(scope="module")
def reading(speech_wav: Path) -> np.ndarray:
    import soundfile
    from scipy.signal import resample_poly

    samples, rate_hz = soundfile.read(speech_wav, dtype="float32")
    samples = resample_poly(samples, SAMPLE_RATE_HZ, rate_hz).astype(np.float32)
    return samples[: int(CLIP_S * SAMPLE_RATE_HZ)]


@pytest.fixture(scope="module")
def packaged() -> weights.Found:
    try:
        return weights.resolve("whisper-tiny.en")
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def transcripts(reading: np.ndarray, packaged: weights.Found) -> dict[str, Transcript]:
    return {name: transcribe(reading, SpeechSettings(engine=name, beam_size=1)) for name in ENGINE_NAMES}


# --- import, settings, names -------------------------------------------------------------------------------------


def test_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, extractors.speech as s; s.ENGINES.names();"
        "print([m for m in ('torch', 'ctranslate2', 'faster_whisper', 'whisper', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'faster-whisper'"):
        transcribe(np.zeros(1600, np.float32), SpeechSettings(engine="faster-wisper"))


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_unknown_model_is_one_line_with_the_valid_names(engine: str) -> None:
    with pytest.raises(WeightsError) as caught:
        transcribe(np.zeros(1600, np.float32), SpeechSettings(engine=engine, model="tny.en"))
    assert caught.value.code == "unknown_name"
    assert "tiny.en" in str(caught.value)
    assert "large-v3" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [{"device": "tpu"}, {"beam_size": 0}, {"threads": 0}])
def test_settings_are_checked(bad: dict) -> None:
    with pytest.raises(InputError):
        SpeechSettings(**bad)


@pytest.mark.parametrize(
    "samples", [np.zeros(100, np.int16), np.zeros((2, 100), np.float32), np.full(100, np.nan, np.float32)]
)
def test_samples_are_checked(samples: np.ndarray) -> None:
    with pytest.raises(InputError, match="Expected"):
        transcribe(samples, SpeechSettings())


# --- finding the model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_packaged_model_is_found_without_network(engine: str, packaged: weights.Found) -> None:
    located = locate(SpeechSettings(engine=engine))
    assert located.source == packaged.source
    assert located.digest == packaged.digest


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_flipped_byte_is_a_weights_error(engine: str, packaged: weights.Found, tmp_path: Path) -> None:
    for inside in packaged.weights.files:
        shutil.copy(packaged.file(inside), tmp_path / Path(inside).name)
    assert locate(SpeechSettings(engine=engine, model_dir=tmp_path)).source == "path"
    with (tmp_path / "model.bin").open("r+b") as stream:
        stream.seek(40_000_000)
        byte = stream.read(1)
        stream.seek(40_000_000)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WeightsError, match="sha256") as caught:
        locate(SpeechSettings(engine=engine, model_dir=tmp_path))
    assert caught.value.code == "weights_corrupt"


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_path_that_is_no_model_is_a_weights_error(engine: str, reading: np.ndarray, tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt"):
        (tmp_path / name).write_bytes(b"{}" * 100)
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path))):
        transcribe(reading, SpeechSettings(engine=engine, model=str(tmp_path)))


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_model_dir_without_the_model_never_downloads(engine: str, tmp_path: Path, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("must not download")

    monkeypatch.setattr("faster_whisper.download_model", refuse)
    monkeypatch.setattr("extractors.downloads.download", refuse)
    with pytest.raises(WeightsError) as caught:
        locate(SpeechSettings(engine=engine, model="base.en", model_dir=tmp_path))
    assert caught.value.code == "weights_missing"


def test_offline_hub_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch) -> None:
    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("faster_whisper.download_model", offline)
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="model_dir"):
        locate(SpeechSettings(model="base.en"))


def test_offline_openai_model_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch) -> None:
    def offline(self, url, timeout):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", offline)
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path))
    with pytest.raises(ToolError, match="model_dir") as caught:
        locate(SpeechSettings(engine="openai-whisper", model="base.en"))
    assert caught.value.code == "download"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_wrong_pt_file_is_refused_by_its_published_sha256(tmp_path: Path) -> None:
    (tmp_path / "base.en.pt").write_bytes(b"not the model")
    with pytest.raises(WeightsError, match="sha256"):
        locate(SpeechSettings(engine="openai-whisper", model="base.en", model_dir=tmp_path))


# --- voice activity and windows ----------------------------------------------------------------------------------


def test_probability_in_chunks_equals_one_pass(reading: np.ndarray, monkeypatch) -> None:
    from faster_whisper.vad import get_vad_model

    monkeypatch.setattr("extractors.speech.voice_activity.CHUNK_FRAMES", 97)
    ours = speech_probability(reading)
    padded = np.pad(reading, (0, -len(reading) % FRAME_SAMPLES))
    theirs = get_vad_model()(padded).reshape(-1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[:-1], theirs[:-1], atol=1e-5)  # it blanks the end of the last frame


def test_segments_agree_with_faster_whisper(reading: np.ndarray) -> None:
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(min_silence_duration_ms=500, speech_pad_ms=200, min_speech_duration_ms=100)
    theirs = [(s["start"] / SAMPLE_RATE_HZ, s["end"] / SAMPLE_RATE_HZ) for s in get_speech_timestamps(reading, options)]
    ours = [(s.start_s, s.end_s) for s in detect_speech(reading).segments]
    assert len(theirs) > 2
    # they let the last segment run to the file's end when its pause is cut short; ours ends where speech does
    np.testing.assert_allclose(np.ravel(ours)[:-1], np.ravel(theirs)[:-1], atol=2 * FRAME_S)


@pytest.mark.parametrize("kind", ["silence", "noise", "hum", "empty"])
def test_no_speech_gives_no_words_and_loads_no_engine(kind: str, monkeypatch) -> None:
    def refuse(*args):
        raise AssertionError("the engine must not load")

    monkeypatch.setattr("extractors.speech._engine", refuse)
    time_s = np.arange(8 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    samples = {
        "silence": np.zeros(len(time_s)),
        "noise": np.random.default_rng(0).normal(0, 0.1, len(time_s)),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time_s),
        "empty": np.zeros(0),
    }[kind].astype(np.float32)
    shares: list[float] = []
    transcript = transcribe(samples, SpeechSettings(), on_progress=shares.append)
    assert transcript.words == ()
    assert transcript.segments == ()
    assert shares[-1] == 1.0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2500), st.booleans()), min_size=1, max_size=8),
    st.integers(0, FRAME_SAMPLES - 1),
)
def test_windows_cover_all_speech_and_fit_thirty_seconds(runs: list[tuple[int, bool]], short: int) -> None:
    probability = np.concatenate([np.full(n, 0.9 if speech else 0.01, np.float32) for n, speech in runs])
    duration_s = (len(probability) * FRAME_SAMPLES - short) / SAMPLE_RATE_HZ
    segments = segments_from_probability(probability, duration_s, VoiceActivityOptions())
    windows = speech_windows(VoiceActivity(probability, segments))
    assert all(0 < w.end_s - w.start_s <= MAX_WINDOW_S + 1e-9 for w in windows)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(windows))
    assert all(0 <= s.start_s < s.end_s <= duration_s + 1e-9 for s in segments)
    covered = sum(min(s.end_s, w.end_s) - max(s.start_s, w.start_s) for s in segments for w in windows
                  if min(s.end_s, w.end_s) > max(s.start_s, w.start_s))  # fmt: skip
    assert covered == pytest.approx(sum(s.end_s - s.start_s for s in segments))
    spoken = np.repeat(probability > 0.5, FRAME_SAMPLES)[: round(duration_s * SAMPLE_RATE_HZ)]
    inside = np.zeros(len(spoken), bool)
    for s in segments:
        inside[round(s.start_s * SAMPLE_RATE_HZ) : round(s.end_s * SAMPLE_RATE_HZ)] = True
    longest_lost = max((n for n, speech in runs if speech and (n - 1) * FRAME_S < 0.1), default=0)
    assert (spoken & ~inside).sum() <= longest_lost * FRAME_SAMPLES * len(runs)


def test_long_speech_is_cut_in_its_pause() -> None:
    probability = np.full(1500, 0.95, np.float32)  # 48 s without a pause long enough to end a segment
    probability[800:806] = 0.4  # 25.6 to 25.8 s
    segment = SpeechSegment(0.0, 48.0)
    first, second = speech_windows(VoiceActivity(probability, (segment,)))
    assert 25.6 <= first.end_s <= 25.8
    assert (first.start_s, second.start_s, second.end_s) == (0.0, first.end_s, 48.0)


def test_long_pauses_are_left_out() -> None:
    gap_s = MAX_PAUSE_S + 0.1
    segments = (SpeechSegment(0, 1), SpeechSegment(1.5, 3), SpeechSegment(3 + gap_s, 6 + gap_s))
    windows = speech_windows(VoiceActivity(np.zeros(400, np.float32), segments))
    assert windows == [SpeechSegment(0, 3), SpeechSegment(3 + gap_s, 6 + gap_s)]


# --- guards ------------------------------------------------------------------------------------------------------


def phrase(*words: RawWord, start_s: float = 0.0, end_s: float = 9.0, no_speech=0.0, mean=-0.2, ratio=1.2):
    return DecodedSegment(words, start_s, end_s, no_speech, mean, ratio)


def test_missing_times_are_interpolated() -> None:
    words = [
        RawWord("a", None, None, 1),
        RawWord("b", 2.0, 3.0, 1),
        RawWord("c", float("nan"), 4.0, 1),
        RawWord("d", None, 5.0, 1),
        RawWord("e", 5.0, 6.0, 1),
        RawWord("f", None, None, 1),
    ]
    expected = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 8)]
    np.testing.assert_allclose(fill_times(words, 1.0, 8.0), expected)


maybe_time = st.one_of(st.none(), st.just(float("nan")), st.floats(-5, 40))
raw_words = st.lists(
    st.builds(RawWord, st.sampled_from(["yes", "no.", "…", " a"]), maybe_time, maybe_time, st.floats())
)


@settings(max_examples=300, deadline=None)
@example([phrase(RawWord("yes", None, None, 0), end_s=e) for e in (0.0, 1.0, 0.0)])
@given(st.lists(st.builds(lambda w, a, b, r: phrase(*w, start_s=a, end_s=b, ratio=r), raw_words, st.floats(0, 30),
                          st.floats(0, 30), st.floats(0.5, 4)), max_size=4))  # fmt: skip
def test_words_are_always_in_order_and_inside(decoded: list[DecodedSegment]) -> None:
    window = SpeechSegment(100.0, 125.0)
    words = clean_words(decoded, window, [window])
    times = [(word.start_s, word.end_s) for word in words]
    assert np.isfinite(times).all()
    assert all(100.0 <= start_s <= end_s <= 125.0 for start_s, end_s in times)
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(times))
    assert all(0 <= word.probability <= 1 for word in words)
    assert all(word.text == word.text.strip() and word.text != "…" for word in words)


def test_words_outside_speech_are_dropped() -> None:
    speech = [SpeechSegment(10.0, 12.0), SpeechSegment(20.0, 21.0)]
    said = phrase(RawWord("real", 0.5, 1.0, 1), RawWord("invented", 5.0, 5.5, 1), RawWord("also", 10.2, 10.6, 1))
    words = clean_words([said], SpeechSegment(10.0, 21.0), speech)
    assert [(word.text, word.start_s) for word in words] == [("real", 10.5), ("also", 20.2)]


def test_phrases_the_engine_doubts_are_dropped() -> None:
    window = SpeechSegment(0, 9)
    word = RawWord("thanks", 1.0, 1.5, 0.3)
    assert clean_words([phrase(word, no_speech=0.9, mean=-1.5)], window, [window]) == []
    assert len(clean_words([phrase(word, no_speech=0.9, mean=-0.3)], window, [window])) == 1


def test_loops_are_cut_only_in_phrases_that_compress_too_well() -> None:
    texts = ["Well", *["thank", "you."] * 9, "bye"]
    words = [RawWord(text, i * 0.3, i * 0.3 + 0.2, 1) for i, text in enumerate(texts)]
    assert [word.text for word in cut_loops(words)] == ["Well", "thank", "you.", "bye"]
    window = SpeechSegment(0, 9)
    assert len(clean_words([phrase(*words, ratio=3.0)], window, [window])) == 4
    assert len(clean_words([phrase(*words, ratio=2.0)], window, [window])) == len(texts)  # "no no no no!" is real


def test_words_without_length_are_given_some() -> None:
    words = [
        Word("so", 1.0, 1.5),
        Word("It", 3.0, 3.0),
        Word("was", 3.0, 3.4),
        Word("the", 3.4, 3.4),
        Word("end", 3.4, 4),
    ]
    times = [(word.start_s, word.end_s) for word in lengthen(words, 0.0)]
    np.testing.assert_allclose(times, [(1.0, 1.5), (2.9, 3.0), (3.0, 3.4), (3.4, 3.5), (3.5, 4.0)])


# --- the CTranslate2 reader --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rebuilt(packaged: weights.Found):
    from extractors.speech.ct2_weights import build_whisper

    return build_whisper(packaged.file("model.bin"), "cpu")


def test_dimensions_are_those_of_tiny_en(rebuilt) -> None:
    assert list(vars(rebuilt.dims).values()) == [80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4]


def test_encoder_and_decoder_agree_with_ctranslate2(rebuilt, packaged: weights.Found, reading: np.ndarray) -> None:
    import ctranslate2
    import torch
    import whisper

    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(reading[: 10 * SAMPLE_RATE_HZ]))
    peer = ctranslate2.models.Whisper(str(packaged.file("model.bin").parent), compute_type="float32", intra_threads=1)
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None].numpy()))
    theirs = np.array(peer.encode(features))[0]  # (1500, 384)
    with torch.no_grad():
        ours = rebuilt.encoder(mel[None])[0].numpy()
    assert ours.shape == theirs.shape == (1500, 384)
    np.testing.assert_allclose(ours, theirs, atol=0.02 * theirs.std())

    tokenizer = whisper.tokenizer.get_tokenizer(False)
    prompt = [*tokenizer.sot_sequence_including_notimestamps]
    result = peer.generate(features, [prompt], beam_size=1, max_length=64)[0]
    tokens = prompt + result.sequences_ids[0]
    with torch.no_grad():
        logits = rebuilt.decoder(torch.tensor([tokens]), torch.tensor(theirs)[None])[0]
    chosen = logits.argmax(-1).tolist()[len(prompt) - 1 : -1]
    same = sum(a == b for a, b in zip(chosen[1:], result.sequences_ids[0][1:], strict=True))  # the first is constrained
    assert len(result.sequences_ids[0]) > 20
    assert same == len(chosen) - 1


def test_alignment_heads_are_those_in_the_conversion(packaged: weights.Found, rebuilt) -> None:
    import whisper

    rebuilt.set_alignment_heads(whisper._ALIGNMENT_HEADS["tiny.en"])
    config = json.loads(packaged.file("config.json").read_text())
    assert rebuilt.alignment_heads.indices().T.tolist() == config["alignment_heads"]


@pytest.mark.parametrize("damage", ["truncated", "longer", "version", "spec", "missing"])
def test_damaged_files_are_weights_errors(damage: str, packaged: weights.Found, tmp_path: Path) -> None:
    from extractors.speech.ct2_weights import read_variables

    data = packaged.file("model.bin").read_bytes()
    changed = {
        "truncated": data[:1_000_000],
        "longer": data + b"\0\0",
        "version": b"\x07" + data[1:],
        "spec": data.replace(b"WhisperSpec", b"TransforSpe", 1),
        "missing": None,
    }[damage]
    path = tmp_path / "model.bin"
    if changed is not None:
        path.write_bytes(changed)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        read_variables(path)


def test_quantised_tensors_are_refused() -> None:
    from extractors.speech.ct2_weights import whisper_tensors

    with pytest.raises(WeightsError, match="float16 or float32"):
        whisper_tensors({"encoder/conv1/weight": np.zeros((2, 2), np.int8)})


# --- both engines on the same reading ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_words_are_those_that_were_read(engine: str, transcripts: dict[str, Transcript]) -> None:
    heard = [plain(word.text) for word in transcripts[engine].words]
    read = [plain(word) for word in READ_TEXT.split()]
    assert edit_distance(heard, read) / len(read) <= 0.05


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_word_times_are_in_order_and_inside_speech(engine: str, transcripts: dict[str, Transcript]) -> None:
    transcript = transcripts[engine]
    starts = [word.start_s for word in transcript.words]
    assert starts == sorted(starts)
    for word in transcript.words:
        assert 0 <= word.start_s <= word.end_s <= CLIP_S
        assert type(word.start_s) is float
        middle_s = (word.start_s + word.end_s) / 2
        assert any(s.start_s - 0.3 <= middle_s <= s.end_s + 0.3 for s in transcript.segments)
    assert sum(word.end_s - word.start_s < 0.02 for word in transcript.words) == 0


def test_engines_agree_on_words_and_times(transcripts: dict[str, Transcript], packaged: weights.Found) -> None:
    a, b = (transcripts[name] for name in ENGINE_NAMES)
    assert edit_distance([plain(w.text) for w in a.words], [plain(w.text) for w in b.words]) <= 3
    pairs = [(x, y) for x, y in zip(a.words, b.words, strict=False) if plain(x.text) == plain(y.text)]
    assert len(pairs) > 30
    assert statistics.median(abs(x.start_s - y.start_s) for x, y in pairs) <= 0.1
    assert statistics.median(abs(x.end_s - y.end_s) for x, y in pairs) <= 0.1
    assert a.weights_digest == b.weights_digest == packaged.digest
    assert a.language == b.language == "en"


def test_memmap_with_long_silence_gives_the_same_words_later(
    reading: np.ndarray, transcripts: dict[str, Transcript], tmp_path: Path
) -> None:
    before_s, after_s = 640.0, 300.0  # a quarter of an hour in all; 640 s is a whole number of frames
    n = round(before_s * SAMPLE_RATE_HZ) + len(reading) + round(after_s * SAMPLE_RATE_HZ)
    samples = np.memmap(tmp_path / "audio.f32", dtype=np.float32, mode="w+", shape=(n,))
    first = round(before_s * SAMPLE_RATE_HZ)
    samples[first : first + len(reading)] = reading
    samples.flush()
    samples = np.memmap(tmp_path / "audio.f32", dtype=np.float32, mode="r", shape=(n,))
    shares: list[float] = []
    transcript = transcribe(samples, SpeechSettings(beam_size=1), on_progress=shares.append)
    alone = transcripts["faster-whisper"].words
    assert edit_distance([plain(w.text) for w in transcript.words], [plain(w.text) for w in alone]) <= 1
    shifts = [x.start_s - y.start_s for x, y in zip(transcript.words, alone, strict=False)]
    assert statistics.median(shifts) == pytest.approx(before_s, abs=0.1)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_two_runs_give_the_same_words(reading: np.ndarray, packaged: weights.Found) -> None:
    settings = SpeechSettings(beam_size=1)
    short = reading[: 5 * SAMPLE_RATE_HZ]
    assert transcribe(short, settings) == transcribe(short, settings)
