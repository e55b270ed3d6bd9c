"""Voice activity: where in a recording somebody speaks (Silero v6, the ONNX file inside faster-whisper).

In: mono float32 samples at 16 kHz (an ``np.memmap`` of hours is fine: they are read 64 s at a time, the network's state
carried over, so the result equals one pass over the whole). Out: speech probability per 32 ms frame and speech segments
in seconds. Runs on one CPU thread; needs neither torch nor ctranslate2.

    activity = detect_speech(samples)
    activity.segments                # (SpeechSegment(start_s=0.31, end_s=4.2), …)
    activity.probability             # float32 [shape=(n_frames,)], frame t covers 0.032·t … 0.032·(t+1) s
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError, WeightsError
from extractors.speech import SAMPLE_RATE_HZ, SpeechSegment

FRAME_SAMPLES = 512  # 32 ms at 16 kHz, the only length the 16 kHz network takes
CONTEXT_SAMPLES = 64  # end of the previous frame, which the network sees before each frame
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ  # 0.032
CHUNK_FRAMES = 2000  # 64 s at a time: 4.6 MB of input
STATE_SHAPE = (1, 1, 128)

ASSET = "assets/silero_vad_v6.onnx"
ASSET_SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"


@dataclass(frozen=True)
class VoiceActivityOptions:
    """How probabilities become segments.

    Parameters
    ----------
    onset : speech starts at a frame with at least this probability.
    offset : speech may end at a frame below this probability (hysteresis).
    min_silence_s : a pause shorter than this does not end a segment.
    min_speech_s : shorter segments are dropped (clicks, coughs).
    pad_s : added on both sides, at most up to the middle of the pause.
    """

    onset: float = 0.5
    offset: float = 0.35
    min_silence_s: float = 0.5
    min_speech_s: float = 0.1
    pad_s: float = 0.2


@dataclass(frozen=True, eq=False)
class VoiceActivity:
    """Speech probability per frame of 32 ms, float32 [shape=(n_frames,)], and the segments made of it."""

    probability: np.ndarray
    segments: tuple[SpeechSegment, ...]


def detect_speech(
    samples: np.ndarray,
    options: VoiceActivityOptions | None = None,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> VoiceActivity:
    """Find speech.

    Parameters
    ----------
    samples : float32 [shape=(n,)], mono, 16 kHz.
    on_progress : called with the share done, 0..1.

    Raises
    ------
    InputError : not one-dimensional floating-point samples, or NaN or infinity among them.
    WeightsError : the network's file is missing or corrupted.
    """
    probability = speech_probability(samples, on_progress=on_progress)
    segments = segments_from_probability(probability, len(samples) / SAMPLE_RATE_HZ, options or VoiceActivityOptions())
    return VoiceActivity(probability, segments)


def speech_probability(samples: np.ndarray, *, on_progress: Callable[[float], None] | None = None) -> np.ndarray:
    """Probability of speech per frame, float32 [shape=(ceil(n / 512),)]; the last frame is padded with zeros."""
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise InputError(f"Expected mono float samples of shape (n,) but got {samples.dtype} {samples.shape}.")
    n_frames = -(-len(samples) // FRAME_SAMPLES)
    probability = np.zeros(n_frames, np.float32)
    if n_frames == 0:
        return probability
    session = _session()
    state_h = np.zeros(STATE_SHAPE, np.float32)
    state_c = np.zeros(STATE_SHAPE, np.float32)
    tail = np.zeros(CONTEXT_SAMPLES, np.float32)
    for first in range(0, n_frames, CHUNK_FRAMES):
        last = min(first + CHUNK_FRAMES, n_frames)
        chunk = np.asarray(samples[first * FRAME_SAMPLES : last * FRAME_SAMPLES], dtype=np.float32)
        if not np.isfinite(chunk).all():
            raise InputError("Expected finite samples but got NaN or infinity.")
        frames = np.zeros(((last - first), CONTEXT_SAMPLES + FRAME_SAMPLES), np.float32)  # (n, 64 + 512)
        body = np.zeros((last - first) * FRAME_SAMPLES, np.float32)
        body[: len(chunk)] = chunk
        frames[:, CONTEXT_SAMPLES:] = body.reshape(-1, FRAME_SAMPLES)
        frames[0, :CONTEXT_SAMPLES] = tail
        frames[1:, :CONTEXT_SAMPLES] = frames[:-1, -CONTEXT_SAMPLES:]
        tail = frames[-1, -CONTEXT_SAMPLES:].copy()
        out, state_h, state_c = session.run(None, {"input": frames, "h": state_h, "c": state_c})
        probability[first:last] = np.asarray(out, np.float32).reshape(-1)
        if on_progress:
            on_progress(last / n_frames)
    return probability


def segments_from_probability(
    probability: np.ndarray, duration_s: float, options: VoiceActivityOptions
) -> tuple[SpeechSegment, ...]:
    """Hysteresis thresholding, joining across short pauses, dropping short bursts, padding."""
    runs: list[list[float]] = []  # [start_s, end_s] of speech, pauses of any length between
    speaking = False
    for index, value in enumerate(probability.tolist()):
        if not speaking and value >= options.onset:
            speaking = True
            runs.append([index * FRAME_S, duration_s])
        elif speaking and value < options.offset:
            speaking = False
            runs[-1][1] = index * FRAME_S
    joined: list[list[float]] = []
    for start_s, end_s in runs:
        if joined and start_s - joined[-1][1] < options.min_silence_s:
            joined[-1][1] = end_s
        else:
            joined.append([start_s, end_s])
    kept = [run for run in joined if run[1] - run[0] >= options.min_speech_s]
    edges = [0.0, *((a[1] + b[0]) / 2 for a, b in itertools.pairwise(kept)), duration_s]
    return tuple(
        SpeechSegment(max(start_s - options.pad_s, edges[i]), min(end_s + options.pad_s, edges[i + 1]))
        for i, (start_s, end_s) in enumerate(kept)
    )


@functools.lru_cache(maxsize=1)
def _session():
    """The ONNX session, its file checked; the package is located without importing it (that would load ctranslate2)."""
    from extractors.weights import check_sha256

    spec = importlib.util.find_spec("faster_whisper")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((Path(folder) / ASSET for folder in folders if (Path(folder) / ASSET).is_file()), None)
    if path is None:
        raise WeightsError(
            f"Expected the voice activity network {ASSET} inside the faster-whisper package but it is not there.",
            code="weights_missing",
            remedy="Run `pip install faster-whisper==1.2.1`.",
        )
    check_sha256(path, ASSET_SHA256)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena would keep the largest chunk's memory for good
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
