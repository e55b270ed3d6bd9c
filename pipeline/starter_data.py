"""Training samples of the starter checkpoint: the pipeline's own extractors run over three public single-modality sets.

    items = SOURCES.get("ravdess")(root / "ravdess")
    tracks = voice_tracks(items, work)            # {item.id: FeatureTrack}, computed once, kept in `work`

Text: GoEmotions comments. Voice: RAVDESS, cut to the voice activity as a user's recording is. Face: photographs, shown
to the tracker as short, slightly jittered clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.batches import Sample, truncate
from data.sources import LabelledItem
from data.spec import MODALITIES, FeatureSpec
from data.track import FeatureTrack
from extractors.frame import Frame
from lamb.blending import pool
from pipeline.settings import PipelineSettings
from pipeline.utterances import mask_outside, speech_blocks

Tracks = dict[str, FeatureTrack]
Say = Callable[[str], None]

STILL_FRAMES = 8
STILL_RATE_HZ = 25.0
STILL_MAX_SIDE = 720
JITTER_TURN_DEG, JITTER_SCALE, JITTER_SHIFT, JITTER_LIGHT = 4.0, 0.05, 0.02, 0.08


def text_tracks(items: Sequence[LabelledItem], settings: PipelineSettings) -> Tracks:
    """GloVe rows of each comment."""
    from extractors.embedding import EmbeddingSettings, WordVectors, tokens_track

    vectors = WordVectors.open(EmbeddingSettings(settings.vectors, settings.vectors_path))
    return {item.id: tokens_track(item.text or "", vectors) for item in items}


def voice_tracks(items: Sequence[LabelledItem], work: Path, settings: PipelineSettings, say: Say) -> Tracks:
    """Acoustic rows of each recording, from the first to the last moment of voice activity."""
    from extractors.acoustic import acoustic_spec

    return _kept(items, work, acoustic_spec(), "voice", lambda item: voice_track(item, settings), say)


def voice_track(item: LabelledItem, settings: PipelineSettings) -> FeatureTrack:
    """The acoustic track of one recording, masked and cut as ``pipeline.video`` does it for a spoken utterance."""
    from extractors.acoustic import covarep_features
    from extractors.media import decode_audio, probe
    from extractors.speech.voice_activity import detect_speech

    assert item.path is not None
    with decode_audio(probe(item.path)) as audio:
        segments = detect_speech(audio.speech_16k).segments
        track = covarep_features(audio.native, audio.native_rate_hz)
    blocks = speech_blocks(segments, (), settings.merge_gap_s) or [(0.0, float(track.end_s[-1]))]
    margin_s = settings.speech_margin_s
    masked = mask_outside(track, blocks, margin_s)
    return masked.slice(blocks[0][0] - margin_s, blocks[-1][1] + margin_s)


def face_tracks(items: Sequence[LabelledItem], work: Path, settings: PipelineSettings, say: Say) -> Tracks:
    """Facial rows of each photograph; a photograph in which no face is found gives a track without valid rows."""
    from extractors.facial import facial_spec

    return _kept(items, work, facial_spec(settings.face_backend), "face", lambda item: still_track(item, settings), say)


def still_track(item: LabelledItem, settings: PipelineSettings) -> FeatureTrack:
    """The facial track of one photograph, shown as a short clip."""
    from extractors.facial import FaceSettings, extract_faces

    assert item.path is not None
    return extract_faces(jittered_frames(item.path), FaceSettings(backend=settings.face_backend)).track


def jittered_frames(picture: Path) -> Iterator[Frame]:
    """A photograph as a short clip: small turns, zooms, shifts and changes of light, the same each time for a picture."""
    from extractors.native import load_cv2

    cv2 = load_cv2()
    rgb = cv2.cvtColor(cv2.imread(str(picture), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    shrink = min(1.0, STILL_MAX_SIDE / max(rgb.shape[:2]))
    if shrink < 1:
        rgb = cv2.resize(rgb, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    height, width = rgb.shape[:2]
    chance = np.random.default_rng(int(hashlib.sha256(picture.name.encode()).hexdigest()[:8], 16))
    for index in range(STILL_FRAMES):
        turn, scale, dx, dy, light = chance.uniform(-1, 1, 5) if index else np.zeros(5)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn * JITTER_TURN_DEG, 1 + scale * JITTER_SCALE)
        matrix[:, 2] += (dx * JITTER_SHIFT * width, dy * JITTER_SHIFT * height)
        moved = cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        lit = np.clip(moved.astype(np.float32) * (1 + light * JITTER_LIGHT), 0, 255).astype(np.uint8)
        yield Frame(index, index / STILL_RATE_HZ, (index + 1) / STILL_RATE_HZ, lit)


def pooled(sample: Sample, pooling: tuple[int, int, int], max_steps: tuple[int, int, int] | None) -> Sample:
    """What truncation and the model's ``pooling`` would do to a normalised sample in every batch, done once."""
    values, valid = dict(sample.values), dict(sample.valid)
    for name, n_steps, limit in zip(MODALITIES, pooling, max_steps or (10**9,) * 3, strict=True):
        if len(valid[name]):
            rows = truncate(valid[name], limit)
            values[name], valid[name] = values[name][rows], valid[name][rows]
            if n_steps > 1:
                x, mask = pool(torch.from_numpy(values[name])[None], torch.from_numpy(valid[name])[None], n_steps)
                values[name], valid[name] = x[0].numpy(), mask[0].numpy()
    return replace(sample, values=values, valid=valid, defined={})


def _kept(
    items: Sequence[LabelledItem],
    work: Path,
    spec: FeatureSpec,
    name: str,
    extract: Callable[[LabelledItem], FeatureTrack],
    say: Say,
) -> Tracks:
    """Tracks from ``work`` if they were made by the same extractor, else computed and saved there."""
    folder = work / f"{name}-{spec.fingerprint()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    tracks: Tracks = {}
    for number, item in enumerate(items):
        stem = folder / item.id.replace("/", "_")
        if not stem.with_name(stem.name + ".json").is_file():
            extract(item).save(stem)  # the JSON is written last, so its presence means a whole track
        tracks[item.id] = FeatureTrack.load(stem)
        if number % 100 == 0:
            say(f"{name}: {number} of {len(items)}")
    return tracks
