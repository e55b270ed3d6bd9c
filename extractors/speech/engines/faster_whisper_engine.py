"""The faster-whisper engine: Whisper on CTranslate2, int8 on a CPU, float16 on a GPU. The default.

In: one window of float32 samples (at most 30 s at 16 kHz). Out: phrases with timed words. Model: the packaged tiny.en,
a folder given by the user, or a conversion from the Hugging Face hub that the user named.

    engine = FasterWhisperEngine(settings, FasterWhisperEngine.locate(settings))
    segments, language = engine.decode(samples, "en")
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import WeightsError
from extractors.speech import (
    DECODING,
    ENGINES,
    PACKAGED_MODEL,
    SAMPLE_RATE_HZ,
    DecodedSegment,
    Located,
    RawWord,
    SpeechSettings,
)

MODEL_FILES = "model.bin, config.json, tokenizer.json and vocabulary.txt (or .json)"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@ENGINES.register("faster-whisper")
class FasterWhisperEngine:
    """See the module; ``decode`` is not safe to call from several threads at once."""

    def __init__(self, settings: SpeechSettings, located: Located) -> None:
        self.settings, self.located = settings, located
        import ctranslate2
        import faster_whisper

        device = settings.device
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        try:
            self.model = faster_whisper.WhisperModel(
                str(located.path),
                device=device,
                compute_type="int8" if device == "cpu" else "float16",
                cpu_threads=settings.threads,
                local_files_only=True,
            )
        except Exception as error:  # ctranslate2 and tokenizers raise RuntimeError, ValueError and bare Exception
            raise WeightsError(
                f"Expected a CTranslate2 Whisper model at {located.path} that loads on {device} but: {error}.",
                code="weights_corrupt",
                remedy=f"The folder needs {MODEL_FILES}; device='cpu' works without a GPU.",
            ) from error

    @staticmethod
    def check_model_name(settings: SpeechSettings) -> None:
        """Raises WeightsError for a model that is no packaged name, path, known size or hub id."""
        model = settings.model
        if model == PACKAGED_MODEL or settings.model_dir is not None or Path(model).exists() or HUB_ID.fullmatch(model):
            return
        from faster_whisper import available_models

        if model not in available_models():
            raise WeightsError(
                f"Expected a faster-whisper model among {', '.join(available_models())}, or the path of a folder that "
                f"holds {MODEL_FILES}, but got {model!r}.",
                code="unknown_name",
            )

    @classmethod
    def locate(cls, settings: SpeechSettings) -> Located:
        """Path in ``model`` → ``model_dir`` → cache → package → download. Raises WeightsError."""
        from extractors.weights import resolve, sha256_file

        cls.check_model_name(settings)
        if Path(settings.model).exists():
            folder = _model_folder([Path(settings.model)], settings)
            return Located(folder, "path", sha256_file(folder / "model.bin"))
        if settings.model_dir is not None:
            folder = _model_folder([settings.model_dir, settings.model_dir / settings.model], settings)
            if settings.model == PACKAGED_MODEL:
                found = resolve("whisper-tiny.en", folder)
                found.verify()
                return Located(folder, found.source, found.digest)
            return Located(folder, "path", sha256_file(folder / "model.bin"))
        if settings.model == PACKAGED_MODEL:
            found = resolve("whisper-tiny.en")
            found.verify()
            return Located(found.file("model.bin").parent, found.source, found.digest)
        folder, source = _from_hub(settings)
        return Located(folder, source, sha256_file(folder / "model.bin"))

    def decode(self, samples: np.ndarray, language: str | None) -> tuple[list[DecodedSegment], str | None]:
        """Recognise one window; see ``extractors.speech.Engine``."""
        segments, info = self.model.transcribe(
            samples,
            language=language,
            beam_size=self.settings.beam_size,
            **DECODING,
        )
        return [_decoded(segment, 0.0) for segment in segments], info.language

    def decode_many(self, windows: Sequence[np.ndarray], language: str) -> list[list[DecodedSegment]]:
        """Recognise several windows in one batch; see ``extractors.speech.Engine``."""
        import faster_whisper

        edges = np.cumsum([0, *(len(window) for window in windows)])
        half = 0.5  # of a sample: the pipeline rounds seconds down to samples
        clips = [
            {"start": (first + half) / SAMPLE_RATE_HZ, "end": (last + half) / SAMPLE_RATE_HZ}
            for first, last in itertools.pairwise(edges.tolist())
        ]
        segments, _ = faster_whisper.BatchedInferencePipeline(self.model).transcribe(
            np.concatenate(windows),
            language=language,
            beam_size=self.settings.beam_size,
            batch_size=len(windows),
            clip_timestamps=clips,
            without_timestamps=False,
            **{key: value for key, value in DECODING.items() if key != "hallucination_silence_threshold"},
        )
        found: list[list[DecodedSegment]] = [[] for _ in windows]
        for segment in segments:  # its times are those of the joined windows
            middle = (segment.start + segment.end) / 2 * SAMPLE_RATE_HZ
            window = min(int(np.searchsorted(edges, middle, "right")) - 1, len(windows) - 1)
            found[window].append(_decoded(segment, float(edges[window]) / SAMPLE_RATE_HZ))
        return found


def _decoded(segment: Any, start_s: float) -> DecodedSegment:
    """A phrase as the library gives it, on the clock of a window that begins at ``start_s``."""
    words = (
        RawWord(
            word.word,
            None if word.start is None else word.start - start_s,
            None if word.end is None else word.end - start_s,
            word.probability,
        )
        for word in segment.words or ()
    )
    return DecodedSegment(
        tuple(words),
        segment.start - start_s,
        segment.end - start_s,
        segment.no_speech_prob,
        segment.avg_logprob,
        segment.compression_ratio,
    )


def _model_folder(candidates: list[Path], settings: SpeechSettings) -> Path:
    for folder in candidates:
        if (folder / "model.bin").is_file():
            if settings.model == PACKAGED_MODEL or (folder / "tokenizer.json").is_file():
                return folder
            raise WeightsError(f"Expected {MODEL_FILES} in {folder} but tokenizer.json is not there.")
    raise WeightsError(
        f"Expected the CTranslate2 model {settings.model!r} in {candidates[0]} but there is no model.bin.",
        code="weights_missing",
        remedy=f"Put {MODEL_FILES} of that model there.",
    )


def _from_hub(settings: SpeechSettings) -> tuple[Path, str]:
    """The named conversion from the hub's local cache, else downloaded: the user asked for this model by name."""
    from faster_whisper import download_model

    from extractors.weights import cache_dir

    root = str(cache_dir() / "speech" / "faster-whisper")
    try:
        return Path(download_model(settings.model, local_files_only=True, cache_dir=root)), "cache"
    except Exception:  # noqa: S110 - not cached, whatever the hub client calls it; the download below says why it fails
        pass
    try:
        return Path(download_model(settings.model, cache_dir=root)), "download"
    except Exception as error:
        raise WeightsError(
            f"Expected to download the faster-whisper model {settings.model!r} but: {type(error).__name__}.",
            code="weights_missing",
            remedy=f"Put {MODEL_FILES} into a folder and give it as model_dir, or use model={PACKAGED_MODEL!r}.",
        ) from error
