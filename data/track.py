"""FeatureTrack: one modality's features on the file's clock, and how it is cut, saved and read.

In: feature rows with times in seconds. Out: slices, coverage (0..1), safetensors + JSON.

    track = FeatureTrack.from_rate(values, spec)     # values (T, d); row t covers t/rate .. (t+1)/rate seconds
    track.slice(1.0, 2.5).coverage(1.0, 2.5)         # share of that interval that was really observed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.spec import FeatureSpec


@dataclass(frozen=True, eq=False)
class FeatureTrack:
    """A sequence of feature rows with times.

    Parameters
    ----------
    values : float32 [shape=(T, d)], finite; 0 where not valid.
    start_s, end_s : float64 [shape=(T,)], seconds on the file's clock, ``start_s`` non-decreasing, ``end_s >= start_s``.
    valid : bool [shape=(T,)], False where nothing was observed.
    defined : bool [shape=(T, d)] or None. False where a column has no meaning in an observed row (the pitch of a sound
        without voice, say); values are 0 there. None: every column of a valid row is defined.
    spec : what the columns are and what made them; ``spec.dim == d``.
    reason : why the track is empty or wholly invalid (``no_audio``, ``no_face``, ``no_speech`` …), else None.

    Raises
    ------
    ValueError : shapes disagree, a value is NaN or infinite, or times run backwards.
    """

    values: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    valid: np.ndarray
    spec: FeatureSpec
    reason: str | None = None
    defined: np.ndarray | None = None

    def __post_init__(self) -> None:
        valid = np.ascontiguousarray(self.valid, dtype=bool)
        values = np.array(self.values, dtype=np.float32, order="C")
        n_steps = len(valid)
        if values.shape != (n_steps, self.spec.dim):
            raise ValueError(f"Expected values of shape {(n_steps, self.spec.dim)} but got {values.shape}")
        values[~valid] = 0.0
        if self.defined is not None:
            defined = np.array(self.defined, dtype=bool, order="C")
            if defined.shape != values.shape:
                raise ValueError(f"Expected defined of shape {values.shape} but got {defined.shape}")
            defined[~valid] = False
            values[~defined] = 0.0
            object.__setattr__(self, "defined", defined)
        if not np.isfinite(values).all():
            raise ValueError(f"Expected finite {self.spec.modality} values but got NaN or infinity")
        start_s = np.ascontiguousarray(self.start_s, dtype=np.float64)
        end_s = np.ascontiguousarray(self.end_s, dtype=np.float64)
        if start_s.shape != (n_steps,) or end_s.shape != (n_steps,):
            raise ValueError(f"Expected times of shape {(n_steps,)} but got {start_s.shape} and {end_s.shape}")
        if (np.diff(start_s) < 0).any() or (end_s < start_s).any():
            raise ValueError("Expected non-decreasing start_s and end_s >= start_s")
        for name, array in (("values", values), ("start_s", start_s), ("end_s", end_s), ("valid", valid)):
            object.__setattr__(self, name, array)

    @classmethod
    def empty(cls, spec: FeatureSpec, reason: str) -> FeatureTrack:
        """A track without rows, for a modality that is absent."""
        none = np.zeros(0)
        return cls(np.zeros((0, spec.dim), np.float32), none, none, none.astype(bool), spec, reason)

    @classmethod
    def from_rate(
        cls, values: np.ndarray, spec: FeatureSpec, valid: np.ndarray | None = None, reason: str | None = None
    ) -> FeatureTrack:
        """A track of regular steps at ``spec.rate_hz``: row t covers ``[t/rate, (t+1)/rate)`` seconds."""
        if spec.rate_hz is None:
            raise ValueError("Expected a spec with a rate_hz")
        edges = np.arange(len(values) + 1) / spec.rate_hz
        if valid is None:
            valid = np.ones(len(values), dtype=bool)
        return cls(values, edges[:-1], edges[1:], valid, spec, reason)

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def observed(self) -> bool:
        """Whether any step was observed at all."""
        return bool(self.valid.any())

    def slice(self, start_s: float, end_s: float) -> FeatureTrack:
        """The steps whose middle lies in ``[start_s, end_s)``; times stay on the file's clock."""
        near = self._near(start_s, end_s)
        middle = (self.start_s[near] + self.end_s[near]) / 2
        keep = np.flatnonzero((middle >= start_s) & (middle < end_s)) + near.start
        defined = None if self.defined is None else self.defined[keep]
        return FeatureTrack(
            self.values[keep], self.start_s[keep], self.end_s[keep], self.valid[keep], self.spec, self.reason, defined
        )

    @cached_property
    def _latest_end_s(self) -> np.ndarray:
        return np.maximum.accumulate(self.end_s)  # (T,), for ends need not be in order

    def _near(self, start_s: float, end_s: float) -> slice:
        """A range of steps that holds all which touch the interval: an hour's track is cut into hundreds of pieces."""
        first = int(np.searchsorted(self._latest_end_s, start_s, "left"))
        return slice(first, max(first, int(np.searchsorted(self.start_s, end_s, "right"))))

    def coverage(self, start_s: float, end_s: float) -> float:
        """Share of ``[start_s, end_s]`` that valid steps cover, 0..1; overlapping steps count once."""
        if end_s <= start_s:
            return 0.0
        covered, reached = 0.0, start_s
        near = self._near(start_s, end_s)
        begins, ends = self.start_s[near][self.valid[near]], self.end_s[near][self.valid[near]]
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            begin, end = max(begin, reached), min(end, end_s)
            if end > begin:
                covered += end - begin
                reached = end
        return min(1.0, covered / (end_s - start_s))

    def save(self, stem: Path) -> None:
        """Write ``<stem>.safetensors`` (values, start_s, end_s, valid, defined if given) and ``<stem>.json`` (spec, reason)."""
        from safetensors.numpy import save_file

        save_file(self.arrays(), stem.with_name(stem.name + ".safetensors"))
        stem.with_name(stem.name + ".json").write_text(json.dumps(self.description(), indent=1) + "\n")

    @classmethod
    def load(cls, stem: Path) -> FeatureTrack:
        """Read what :meth:`save` wrote. Raises InputError if either file is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            record = json.loads(stem.with_name(stem.name + ".json").read_text())
            return cls.from_arrays(load_file(stem.with_name(stem.name + ".safetensors")), record)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(f"Expected a saved feature track at {stem} but it cannot be read: {error}.") from error

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; with :meth:`description` they are the whole track."""
        found = {"values": self.values, "start_s": self.start_s, "end_s": self.end_s, "valid": self.valid}
        return found if self.defined is None else found | {"defined": self.defined}

    def description(self) -> dict[str, Any]:
        """Spec, its fingerprint and the reason, as plain JSON values."""
        return {"spec": self.spec.to_dict(), "fingerprint": self.spec.fingerprint(), "reason": self.reason}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], description: dict[str, Any]) -> FeatureTrack:
        """What :meth:`arrays` and :meth:`description` were taken of. Raises ValueError, KeyError, TypeError."""
        spec = FeatureSpec.from_dict(description["spec"])
        times = arrays["start_s"], arrays["end_s"]
        return cls(arrays["values"], *times, arrays["valid"], spec, description.get("reason"), arrays.get("defined"))
