"""Word and Clip: a timed word, and an utterance with its three tracks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from data.spec import MODALITIES, Modality
from data.track import FeatureTrack


@dataclass(frozen=True)
class Word:
    """One recognised word. Times in seconds on the file's clock; ``probability`` is the recogniser's, 0..1."""

    text: str
    start_s: float
    end_s: float
    probability: float = 1.0


def words_to_text(words: Iterable[Word]) -> str:
    """The words as one readable line."""
    return " ".join(" ".join(word.text for word in words).split())


@dataclass(frozen=True)
class Clip:
    """An utterance: an interval of a source file with three feature tracks, any of which may be empty.

    ``tracks`` maps "text", "audio" and "visual" to tracks already cut to the interval; ``labels`` are names, or None
    where nobody labelled it.
    """

    id: str
    source: str
    start_s: float
    end_s: float
    tracks: dict[Modality, FeatureTrack]
    text: str = ""
    labels: tuple[str, ...] | None = None
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in MODALITIES if name not in self.tracks]
        if missing:
            raise ValueError(f"Expected tracks for {MODALITIES} but {missing} are missing (use FeatureTrack.empty)")
        for name, track in self.tracks.items():
            if track.spec.modality != name:
                raise ValueError(f"Expected a {name} track but got {track.spec.modality}")
        if self.end_s < self.start_s:
            raise ValueError(f"Expected end_s >= start_s but got {self.start_s}..{self.end_s}")

    def coverage(self, modality: Modality) -> float:
        """Share of the interval that the modality observed, 0..1."""
        return self.tracks[modality].coverage(self.start_s, self.end_s)
