"""What each extractor stage finds in one file, whole and without the others, and its form as bytes.

In: what was heard or seen. Out: bytes (safetensors with the rest as JSON in its header) that :func:`unpack` turns back into
the same part, so that a stage's result can be kept and its successors run another day or on another machine.

    content = pack(part, seconds=1.5)
    part, seconds = unpack(content)                          # AcousticPart(track=…, reasons=()), 1.5
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.clip import Word
from data.errors import InputError
from data.track import FeatureTrack
from extractors.speech import SpeechSegment

HEADER = "lamb"  # the key of our JSON in the safetensors header
Loudness = tuple[np.ndarray, np.ndarray]  # times in seconds, root mean square

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class SpeechPart:
    """Words, voice activity, the loudness curve (None without sound), and why something is missing."""

    words: tuple[Word, ...] = ()
    segments: tuple[SpeechSegment, ...] = ()
    loudness: Loudness | None = None
    reasons: tuple[str, ...] = ()

    @property
    def heard(self) -> bool:
        """Whether there was any sound to listen to."""
        return self.loudness is not None


@dataclass(frozen=True, eq=False)
class AcousticPart:
    """The acoustic track of the whole file, also where nobody speaks."""

    track: FeatureTrack
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FacialPart:
    """The followed face's columns and raw shapes; with ``--face all`` a track per face, most prominent first."""

    track: FeatureTrack
    blendshapes: FeatureTrack | None = None
    faces: tuple[FeatureTrack, ...] = ()
    reasons: tuple[str, ...] = ()


Part = SpeechPart | AcousticPart | FacialPart


def pack(part: Part, seconds: float = 0.0) -> bytes:
    """A part, and the seconds it took to make, as the bytes of one safetensors file."""
    from safetensors.numpy import save

    arrays: Arrays = {}
    meta: dict[str, Any] = {"part": type(part).__name__, "reasons": list(part.reasons), "seconds": seconds}
    if isinstance(part, SpeechPart):
        meta |= {"words": [asdict(word) for word in part.words], "segments": [asdict(s) for s in part.segments]}
        if part.loudness is not None:
            arrays |= {"loudness.time_s": part.loudness[0], "loudness.rms": part.loudness[1]}
    else:
        meta["tracks"] = {name: _put(name, track, arrays) for name, track in _tracks(part).items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # one key more than none: safetensors reads no file without a tensor
    return save(arrays | {"": np.zeros(1, np.uint8)}, {HEADER: json.dumps(meta, ensure_ascii=True)})


def unpack(content: bytes) -> tuple[Part, float]:
    """The part that :func:`pack` made bytes of, and its seconds. Raises InputError (damaged) for any other bytes."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        meta = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][HEADER])
        return _READERS[meta["part"]](meta, arrays), float(meta["seconds"])
    except (ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise InputError(f"Expected the result of a stage but it cannot be read: {error}.", code="damaged") from error


def _tracks(part: AcousticPart | FacialPart) -> dict[str, FeatureTrack]:
    tracks = {"track": part.track}
    if isinstance(part, FacialPart):
        if part.blendshapes is not None:
            tracks["blendshapes"] = part.blendshapes
        tracks |= {f"face{number}": face for number, face in enumerate(part.faces)}
    return tracks


def _put(name: str, track: FeatureTrack, arrays: Arrays) -> dict[str, Any]:
    arrays |= {f"{name}.{key}": array for key, array in track.arrays().items()}
    return track.description()


def _get(name: str, meta: dict[str, Any], arrays: Arrays) -> FeatureTrack:
    start = f"{name}."
    own = {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}
    return FeatureTrack.from_arrays(own, meta["tracks"][name])


def _speech(meta: dict[str, Any], arrays: Arrays) -> SpeechPart:
    loudness = (arrays["loudness.time_s"], arrays["loudness.rms"]) if "loudness.rms" in arrays else None
    words = tuple(Word(**word) for word in meta["words"])
    return SpeechPart(words, tuple(SpeechSegment(**s) for s in meta["segments"]), loudness, tuple(meta["reasons"]))


def _acoustic(meta: dict[str, Any], arrays: Arrays) -> AcousticPart:
    return AcousticPart(_get("track", meta, arrays), tuple(meta["reasons"]))


def _facial(meta: dict[str, Any], arrays: Arrays) -> FacialPart:
    n_faces = sum(name.startswith("face") for name in meta["tracks"])
    shapes = _get("blendshapes", meta, arrays) if "blendshapes" in meta["tracks"] else None
    faces = tuple(_get(f"face{number}", meta, arrays) for number in range(n_faces))
    return FacialPart(_get("track", meta, arrays), shapes, faces, tuple(meta["reasons"]))


_READERS: Mapping[str, Callable[[dict[str, Any], Arrays], Part]] = {
    "SpeechPart": _speech,
    "AcousticPart": _acoustic,
    "FacialPart": _facial,
}
