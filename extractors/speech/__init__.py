"""Speech: 16 kHz audio → words with times.

In: mono float32 samples at 16 kHz, in memory or an ``np.memmap``. Out: :class:`Transcript`: words and speech segments in
seconds from the first sample. Order of work: voice activity → windows of at most 30 s → engine → guards. Silence never
reaches the engine. Decoding uses temperature 0 only, so the same samples and settings give the same words.

    from extractors.speech import SpeechSettings, transcribe
    transcript = transcribe(samples, SpeechSettings(engine="faster-whisper"))
    transcript.words[0]                 # Word(text='It', start_s=0.32, end_s=0.5, probability=0.93)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data.clip import Word
from data.errors import InputError
from data.registry import Registry

if TYPE_CHECKING:
    import numpy as np

ENGINES = Registry("speech engine", "extractors.speech.engines")

SAMPLE_RATE_HZ = 16_000
PACKAGED_MODEL = "tiny.en"
DEVICES = ("cpu", "cuda", "auto")
DECODING = {
    "temperature": 0.0,  # sampling at higher temperatures would make two runs differ
    "condition_on_previous_text": False,  # a mistake would be carried from window to window
    "word_timestamps": True,
    "hallucination_silence_threshold": 2.0,  # seconds of silence in which no text is believed
}
"""Options that every engine passes to Whisper; both libraries call them the same."""
BATCH_WINDOWS = 32  # windows of at most 30 s that :func:`transcribe_many` decodes together
VOICE_ACTIVITY_SHARE = 0.05  # of the progress bar; measured 1–5 % of the time of a transcription


@dataclass(frozen=True)
class SpeechSettings:
    """How to recognise speech.

    Parameters
    ----------
    engine : "faster-whisper" (CTranslate2) or "openai-whisper" (PyTorch).
    model : a Whisper model's name, or a path to one. "tiny.en" comes with a package and needs no network; any other
        name is downloaded at first use unless ``model_dir`` holds it.
    model_dir : folder that holds the model: a CTranslate2 model (model.bin, config.json, tokenizer.json, vocabulary.*)
        for faster-whisper, ``<name>.pt`` for openai-whisper. With it nothing is downloaded.
    language : two-letter code; None lets a multilingual model decide on the first window.
    beam_size : beams of the search, 1 = greedy.
    threads : CPU threads.
    device : "cpu", "cuda", or "auto" (a GPU if the engine sees one).
    """

    engine: str = "faster-whisper"
    model: str = PACKAGED_MODEL
    model_dir: Path | None = None
    language: str | None = "en"
    beam_size: int = 5
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InputError(f"Expected device among {', '.join(DEVICES)} but got {self.device!r}.")
        if self.beam_size < 1 or self.threads < 1:
            raise InputError(f"Expected beam_size and threads >= 1 but got {self.beam_size} and {self.threads}.")


@dataclass(frozen=True)
class SpeechSegment:
    """An interval in which somebody speaks, seconds."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Transcript:
    """Words in order of time, the speech segments they lie in, and what recognised them.

    ``weights_source`` is "path", "cache", "package" or "download"; it and ``weights_digest`` (sha256 of the weights) are
    "" when there was no speech and so nothing was loaded.
    """

    words: tuple[Word, ...]
    segments: tuple[SpeechSegment, ...]
    engine: str
    model: str
    weights_source: str = ""
    weights_digest: str = ""
    language: str | None = None


@dataclass(frozen=True)
class Located:
    """A model found on disk: its folder or file, which step found it, and the sha256 of its weights."""

    path: Path
    source: str
    digest: str


@dataclass(frozen=True)
class RawWord:
    """A word as an engine gives it: seconds from the window's start; times may be missing or NaN."""

    text: str
    start_s: float | None
    end_s: float | None
    probability: float


@dataclass(frozen=True)
class DecodedSegment:
    """A phrase as an engine gives it. ``compression_ratio``: bytes of text over bytes of its zlib form."""

    words: tuple[RawWord, ...]
    start_s: float
    end_s: float
    no_speech_probability: float
    mean_log_probability: float
    compression_ratio: float


class Engine(Protocol):
    """A loaded recogniser."""

    located: Located

    def decode(self, samples: np.ndarray, language: str | None) -> tuple[list[DecodedSegment], str | None]:
        """Recognise one window, float32 [shape=(n,)], n <= 30 s at 16 kHz; returns segments and the language."""
        ...

    def decode_many(self, windows: Sequence[np.ndarray], language: str) -> list[list[DecodedSegment]]:
        """Recognise several windows in one batch; an engine without it decodes one by one."""
        ...


def locate(settings: SpeechSettings) -> Located:
    """Find the model without loading it, its sha256 checked where one is known; may download it (see ``model``).

    Raises WeightsError if it cannot be had, UnknownName for an unknown engine.
    """
    return ENGINES.get(settings.engine).locate(settings)


@functools.lru_cache(maxsize=2)
def _engine(kind: Any, settings: SpeechSettings) -> Engine:
    return kind(settings, kind.locate(settings))


def transcribe(
    samples: np.ndarray, settings: SpeechSettings, *, on_progress: Callable[[float], None] | None = None
) -> Transcript:
    """Recognise the words of a recording.

    Parameters
    ----------
    samples : float32 [shape=(n,)], mono, 16 kHz; may be an ``np.memmap`` of hours (read in windows).
    settings : engine and model.
    on_progress : called with the share done, non-decreasing, ending with 1.0.

    Returns
    -------
    Transcript : words with ``0 <= start_s <= end_s <= n / 16000``, starts non-decreasing; empty without speech. A loaded
        engine stays in memory for the next call with the same settings.

    Raises
    ------
    InputError : samples are not mono float, or not finite.
    UnknownName : unknown engine.
    WeightsError : unknown model name, or weights missing or corrupted.
    """
    from extractors.speech.guards import clean_words
    from extractors.speech.voice_activity import detect_speech
    from extractors.speech.windows import speech_windows

    report = on_progress or (lambda share: None)
    kind = ENGINES.get(settings.engine)
    kind.check_model_name(settings)
    activity = detect_speech(samples, on_progress=lambda share: report(share * VOICE_ACTIVITY_SHARE))
    if not activity.segments:
        report(1.0)
        return Transcript((), (), settings.engine, settings.model)

    engine = _engine(kind, settings)
    windows = speech_windows(activity)
    language, words = settings.language, []
    for done, window in enumerate(windows, start=1):
        first, last = round(window.start_s * SAMPLE_RATE_HZ), round(window.end_s * SAMPLE_RATE_HZ)
        decoded, language = engine.decode(_contiguous(samples[first:last]), language)
        words += clean_words(decoded, window, activity.segments)
        report(VOICE_ACTIVITY_SHARE + (1 - VOICE_ACTIVITY_SHARE) * done / len(windows))
    return Transcript(
        tuple(words),
        activity.segments,
        settings.engine,
        settings.model,
        engine.located.source,
        engine.located.digest,
        language,
    )


def transcribe_many(recordings: Sequence[np.ndarray], settings: SpeechSettings) -> list[Transcript]:
    """Recognise several recordings together: windows of all of them in common batches, which is what keeps a GPU busy.

    One by one where the engine cannot (openai-whisper), or where each recording's language must be found first. Batches
    round differently than single windows, so a word may differ from :func:`transcribe`'s. Arguments, result and errors per
    recording as there.
    """
    from extractors.speech.guards import clean_words
    from extractors.speech.voice_activity import detect_speech
    from extractors.speech.windows import speech_windows

    kind = ENGINES.get(settings.engine)
    kind.check_model_name(settings)
    if settings.language is None or not hasattr(kind, "decode_many"):
        return [transcribe(samples, settings) for samples in recordings]
    activities = [detect_speech(samples) for samples in recordings]
    jobs = [(i, window) for i, activity in enumerate(activities) for window in speech_windows(activity)]
    words: list[list[Word]] = [[] for _ in recordings]
    located: Located | None = None
    for begin in range(0, len(jobs), BATCH_WINDOWS):
        engine = _engine(kind, settings)
        located = engine.located
        batch = jobs[begin : begin + BATCH_WINDOWS]
        cuts = [(round(w.start_s * SAMPLE_RATE_HZ), round(w.end_s * SAMPLE_RATE_HZ)) for _, w in batch]
        samples = [_contiguous(recordings[i][first:last]) for (i, _), (first, last) in zip(batch, cuts, strict=True)]
        for (i, window), decoded in zip(batch, engine.decode_many(samples, settings.language), strict=True):
            words[i] += clean_words(decoded, window, activities[i].segments)
    return [
        Transcript(tuple(found), activity.segments, settings.engine, settings.model)
        if located is None or not activity.segments
        else Transcript(
            tuple(found),
            activity.segments,
            settings.engine,
            settings.model,
            located.source,
            located.digest,
            settings.language,
        )
        for found, activity in zip(words, activities, strict=True)
    ]


def _contiguous(window: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.array(window, dtype=np.float32)  # a copy in memory: engines must not see, or write to, a memmap
