"""FeatureSpec: the contract between an extractor and a model, and its fingerprint.

Two tracks may meet the same model only if their specs agree on columns, rate, extractor, version and weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

Modality = Literal["text", "audio", "visual"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(frozen=True)
class FeatureSpec:
    """What a feature track holds and what made it.

    Parameters
    ----------
    modality : "text", "audio" or "visual".
    columns : one name per feature dimension, in order.
    rate_hz : rows per second, or None when rows follow events (words, video frames).
    extractor : name of the extractor, e.g. "covarep".
    version : the extractor's own version; changes whenever its numbers change.
    weights : sha256 of the weights it runs on, or "" if it has none.
    """

    modality: Modality
    columns: tuple[str, ...]
    rate_hz: float | None
    extractor: str
    version: str
    weights: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.modality not in MODALITIES:
            raise ValueError(f"Expected modality to be one of {MODALITIES} but got {self.modality!r}")
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"Expected distinct column names for {self.modality}, but got {self.columns}")
        if self.rate_hz is not None and not self.rate_hz > 0:
            raise ValueError(f"Expected rate_hz > 0 or None but got {self.rate_hz}")

    @property
    def dim(self) -> int:
        return len(self.columns)

    def to_dict(self) -> dict[str, Any]:
        return {
            "modality": self.modality,
            "columns": list(self.columns),
            "rate_hz": self.rate_hz,
            "extractor": self.extractor,
            "version": self.version,
            "weights": self.weights,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> FeatureSpec:
        return cls(**{**record, "columns": tuple(record["columns"])})

    def fingerprint(self) -> str:
        """sha256 (hex) of the canonical JSON of all fields."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def differences(self, other: FeatureSpec) -> list[str]:
        """Readable differences, self = expected, other = what came; empty if they agree."""
        found = []
        for name in ("modality", "extractor", "version", "rate_hz", "weights"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                if name == "weights":
                    mine, theirs = (mine or "none")[:12], (theirs or "none")[:12]
                found.append(f"{name} {mine} expected, {theirs} came")
        if self.columns != other.columns:
            pairs = list(zip(self.columns, other.columns, strict=False))
            first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
            if first is None:
                found.append(f"{self.dim} columns expected, {other.dim} came")
            else:
                a, b = pairs[first]
                found.append(f"column {first} {a} expected, {b} came ({self.dim} columns expected, {other.dim} came)")
        return found
