"""A stage's result as bytes: what comes back is what went in, and other bytes are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors

from data import FeatureSpec, FeatureTrack, InputError, Word
from extractors.speech import SpeechSegment
from pipeline.parts import AcousticPart, FacialPart, SpeechPart, pack, unpack


def track(modality: str, n_steps: int, seed: int, defined: bool = False) -> FeatureTrack:
    chance = np.random.default_rng(seed)
    spec = FeatureSpec(modality, ("a", "b", "c"), 100.0, "test", "1")  # type: ignore[arg-type]
    values = chance.normal(size=(n_steps, 3)).astype(np.float32)
    known = chance.random((n_steps, 3)) < 0.7 if defined else None
    edges = np.cumsum(chance.random(n_steps + 1))
    return FeatureTrack(values, edges[:-1], edges[1:], chance.random(n_steps) < 0.8, spec, None, known)


def same(a: FeatureTrack | None, b: FeatureTrack | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.description() == b.description() and all(
        np.array_equal(a.arrays()[name], array) and a.arrays()[name].dtype == array.dtype
        for name, array in b.arrays().items()
    )


SPEECH = SpeechPart(
    words=(Word("It’s", 0.1, 0.25, 0.875), Word("\udcff\n", 0.3, 0.3, 1.0)),
    segments=(SpeechSegment(0.05, 1 / 3),),
    loudness=(np.arange(4) / 25, np.linspace(0, 1, 4, dtype=np.float32)),
    reasons=("audio_damaged",),
)


def test_speech_comes_back_whole() -> None:
    back, seconds = unpack(pack(SPEECH, 1.25))
    assert seconds == 1.25
    assert isinstance(back, SpeechPart)
    assert (back.words, back.segments, back.reasons) == (SPEECH.words, SPEECH.segments, SPEECH.reasons)
    assert back.loudness is not None
    assert SPEECH.loudness is not None
    assert all(np.array_equal(a, b) for a, b in zip(back.loudness, SPEECH.loudness, strict=True))
    nothing, _ = unpack(pack(SpeechPart(reasons=("no_audio",))))
    assert isinstance(nothing, SpeechPart)
    assert (nothing.heard, nothing.reasons) == (False, ("no_audio",))


@pytest.mark.parametrize("n_steps", [0, 1, 50])
def test_tracks_come_back_whole(n_steps: int) -> None:
    acoustic = AcousticPart(track("audio", n_steps, 1, defined=True), ("audio_damaged",))
    back, _ = unpack(pack(acoustic))
    assert isinstance(back, AcousticPart)
    assert same(back.track, acoustic.track)
    assert back.reasons == acoustic.reasons
    for shapes, faces in ((None, 0), (track("visual", n_steps, 2), 0), (track("visual", n_steps, 2), 12)):
        facial = FacialPart(
            track("visual", n_steps, 3), shapes, tuple(track("visual", n_steps, 4 + i) for i in range(faces))
        )
        back, _ = unpack(pack(facial))
        assert isinstance(back, FacialPart)
        assert same(back.track, facial.track)
        assert same(back.blendshapes, shapes)
        assert len(back.faces) == faces
        assert all(same(a, b) for a, b in zip(back.faces, facial.faces, strict=True))


def test_same_part_same_bytes_and_readable_by_others() -> None:
    part = AcousticPart(track("audio", 5, 1))
    assert pack(part) == pack(AcousticPart(track("audio", 5, 1)))
    assert np.array_equal(load_tensors(pack(part))["track.values"], part.track.values)


def test_damaged_bytes_are_refused() -> None:
    whole = pack(AcousticPart(track("audio", 5, 1)))
    header = json.dumps({"__metadata__": {"lamb": json.dumps({"part": "Path"})}}).encode()
    for content in (b"", whole[:-1], whole[:20], b"\0" * 100, len(header).to_bytes(8, "little") + header):
        with pytest.raises(InputError) as caught:
            unpack(content)
        assert caught.value.code == "damaged"
