"""The openai-whisper engine: Whisper on PyTorch, float32 on a CPU, float16 on a GPU.

In: one window of float32 samples (at most 30 s at 16 kHz). Out: phrases with timed words. Model: tiny.en built from the
packaged CTranslate2 file (no download), a ``.pt`` file in ``model_dir``, or one of OpenAI's published files that the user
named, its sha256 checked against the one in its address. ffmpeg is never called: arrays come in.

    engine = OpenaiWhisperEngine(settings, OpenaiWhisperEngine.locate(settings))
    segments, language = engine.decode(samples, "en")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError, WeightsError
from extractors.speech import DECODING, ENGINES, PACKAGED_MODEL, DecodedSegment, Located, RawWord, SpeechSettings

MAX_MODEL_BYTES = 4 << 30  # large-v3 has 3.1e9
DOWNLOAD_LIMIT_S = 3600


@ENGINES.register("openai-whisper")
class OpenaiWhisperEngine:
    """See the module; ``decode`` sets torch's thread count for its own duration."""

    def __init__(self, settings: SpeechSettings, located: Located) -> None:
        self.settings, self.located = settings, located
        import torch
        import whisper

        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise InputError("Expected a GPU for device='cuda' but PyTorch sees none.", remedy="Use device='cpu'.")
        if located.path.suffix == ".bin":
            from extractors.speech.ct2_weights import build_whisper

            self.model = build_whisper(located.path, device)
        else:
            try:
                # reads with torch.load(weights_only=True) in every release since 20231117; pyproject pins a later one
                self.model = whisper.load_model(str(located.path), device=device)
            except Exception as error:
                raise WeightsError(
                    f"Expected an openai-whisper model at {located.path} but: {type(error).__name__}.",
                    code="weights_corrupt",
                    remedy="Get the file again.",
                ) from error
        heads = whisper._ALIGNMENT_HEADS.get(_size_name(settings, located.path))
        if heads is not None:  # the cross-attention heads that follow the audio; else the upper half of all heads
            self.model.set_alignment_heads(heads)

    @staticmethod
    def check_model_name(settings: SpeechSettings) -> None:
        """Raises WeightsError for a model that is neither a published size nor an existing file."""
        if settings.model == PACKAGED_MODEL or Path(settings.model).exists():
            return
        import whisper

        if settings.model not in whisper.available_models():
            raise WeightsError(
                f"Expected an openai-whisper model among {', '.join(whisper.available_models())}, or the path of a .pt "
                f"file or a CTranslate2 model.bin, but got {settings.model!r}.",
                code="unknown_name",
            )

    @classmethod
    def locate(cls, settings: SpeechSettings) -> Located:
        """Path in ``model`` → ``model_dir`` → cache → package → download. Raises WeightsError or ToolError."""
        from extractors.weights import cache_dir, check_sha256, resolve, sha256_file

        cls.check_model_name(settings)
        path = Path(settings.model)
        if path.exists():
            path = path / "model.bin" if path.is_dir() else path
            if not path.is_file() or path.suffix not in (".pt", ".bin"):
                raise WeightsError(f"Expected a .pt file or a CTranslate2 model.bin at {path}.", code="weights_missing")
            return Located(path, "path", sha256_file(path))
        folder = settings.model_dir or cache_dir() / "speech" / "openai-whisper"
        if settings.model == PACKAGED_MODEL and not (folder / "tiny.en.pt").is_file():
            found = resolve("whisper-tiny.en", settings.model_dir)
            return Located(found.file("model.bin"), found.source, found.digest)
        url, digest = _published(settings.model)
        target = folder / url.rpartition("/")[2]
        if target.is_file():
            check_sha256(target, digest)
            return Located(target, "path" if settings.model_dir else "cache", digest)
        remedy = (
            f"Put {target.name} from {url} into a folder and give it as model_dir, or use model={PACKAGED_MODEL!r}."
        )
        if settings.model_dir is not None:
            raise WeightsError(f"Expected {target.name} in {folder}.", code="weights_missing", remedy=remedy)
        return Located(_fetch(url, target, digest, remedy), "download", digest)

    def decode(self, samples: np.ndarray, language: str | None) -> tuple[list[DecodedSegment], str | None]:
        """Recognise one window; see ``extractors.speech.Engine``."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(self.settings.threads)
        try:
            result: dict[str, Any] = self.model.transcribe(
                samples,
                verbose=None,
                language=language if self.model.is_multilingual else "en",
                beam_size=self.settings.beam_size,
                **DECODING,
                fp16=self.model.device.type == "cuda",
            )
        finally:
            torch.set_num_threads(threads)
        decoded = [
            DecodedSegment(
                tuple(
                    RawWord(word["word"], word.get("start"), word.get("end"), word.get("probability", 0.0))
                    for word in segment.get("words", ())
                ),
                segment["start"],
                segment["end"],
                segment["no_speech_prob"],
                segment["avg_logprob"],
                segment["compression_ratio"],
            )
            for segment in result["segments"]
        ]
        return decoded, result["language"]


def _size_name(settings: SpeechSettings, path: Path) -> str:
    """The published size whose alignment heads fit: the model's name, or a .pt file's stem."""
    return path.stem if Path(settings.model).exists() and path.suffix == ".pt" else settings.model


def _published(model: str) -> tuple[str, str]:
    """Address and sha256 of a published model; the digest is the last folder of the address."""
    import whisper

    url = whisper._MODELS[model]
    return url, url.split("/")[-2]


def _fetch(url: str, target: Path, digest: str, remedy: str) -> Path:
    from extractors.downloads import download

    download(url, target, max_bytes=MAX_MODEL_BYTES, time_limit_s=DOWNLOAD_LIMIT_S, sha256=digest, remedy=remedy)
    return target
