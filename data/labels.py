"""Label sets: names in a fixed order, and conversion between names and 0/1 vectors.

In: label names. Out: float32 vectors in the set's order, and back.

    LabelSet(EMOTIONS).encode(["fear"])      # array([0, 0, 1, 0, 0, 0], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""The six emotions of CMU-MOSEI (Ekman's), alphabetical. MOSEI's own order differs; datasets convert by name."""


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of label names; any number of them can hold at once."""

    names: tuple[str, ...] = EMOTIONS

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"Expected distinct label names, at least one, but got {self.names}")

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, labels: Iterable[str]) -> np.ndarray:
        """0/1 vector of shape ``(len(self),)``, float32. Raises ValueError for a name outside the set."""
        vector = np.zeros(len(self.names), dtype=np.float32)
        for name in labels:
            if name not in self.names:
                raise ValueError(f"Expected labels from {self.names} but got {name!r}")
            vector[self.names.index(name)] = 1.0
        return vector

    def decode(self, vector: Sequence[float] | np.ndarray) -> list[str]:
        """Names whose entry is above 0.5."""
        return [name for name, value in zip(self.names, vector, strict=True) if value > 0.5]
