"""Settings of the whole path from file to labels: one frozen object, strict keys.

In: plain values. Out: checked settings; an unknown key is an error.

    PipelineSettings(device="cpu", face="speaker")
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from data.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


class PipelineSettings(BaseModel):
    """How a video is cut, which extractors run on it, and on what.

    Times in seconds, rates in Hz. ``weights`` maps catalogue names to a file or folder that the user gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device = "auto"
    threads: int = Field(default=1, ge=1, le=64)
    asr_engine: str = "faster-whisper"
    asr_model: str = "tiny.en"
    asr_model_dir: Path | None = None
    language: str | None = "en"
    vectors: str = "glove-6b-50d"
    vectors_path: Path | None = None
    acoustic_mode: Literal["fixed", "compat"] = "fixed"
    face_backend: str = "mediapipe"
    face: Literal["largest", "speaker", "all"] = "largest"
    max_rate_hz: float = Field(default=30.0, gt=0, le=240)
    weights: dict[str, Path] = Field(default_factory=dict)
    max_duration_s: float = Field(default=6 * 3600.0, gt=0)

    # Cutting into utterances (pipeline/utterances.py).
    merge_gap_s: float = Field(default=0.6, ge=0)
    min_sentence_s: float = Field(default=1.5, gt=0)
    max_utterance_s: float = Field(default=12.0, gt=1)
    window_s: float = Field(default=4.0, gt=0)
    min_window_s: float = Field(default=1.0, gt=0)
    min_face_coverage: float = Field(default=0.25, ge=0, le=1)
    speech_margin_s: float = Field(default=0.15, ge=0)

    @property
    def compute_device(self) -> Literal["cpu", "cuda"]:
        """``auto`` resolved. Raises InputError if cuda is asked for and not there."""
        if self.device == "cpu":
            return "cpu"
        import torch

        if torch.cuda.is_available():
            return "cuda"
        if self.device == "cuda":
            raise InputError(
                "Expected a CUDA device for --device cuda but torch sees none.",
                code="no_cuda",
                remedy="Use --device cpu, or run `lamb doctor`.",
            )
        return "cpu"
