"""What the stages hand each other, and the datasets made of it.

Conventions: times are seconds (float64) on the media file's own clock, where 0 is the container's start; feature
values are float32; a step that observed nothing is ``valid = False`` with values 0, never NaN.

    from data import FeatureSpec, FeatureTrack
    spec = FeatureSpec("audio", ("F0", "VUV"), 100.0, "covarep", "1")
    track = FeatureTrack.from_rate(values, spec)          # values: (T, 2)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.clip import Clip, Word, words_to_text
    from data.errors import CheckpointError, InputError, LambError, MissingStream, SpecMismatch, ToolError, WeightsError
    from data.labels import EMOTIONS, LabelSet
    from data.spec import MODALITIES, FeatureSpec
    from data.track import FeatureTrack

__all__ = [
    "EMOTIONS",
    "MODALITIES",
    "CheckpointError",
    "Clip",
    "FeatureSpec",
    "FeatureTrack",
    "InputError",
    "LabelSet",
    "LambError",
    "MissingStream",
    "SpecMismatch",
    "ToolError",
    "WeightsError",
    "Word",
    "words_to_text",
]

_HOME = {
    "data.clip": ("Clip", "Word", "words_to_text"),
    "data.errors": (
        "CheckpointError",
        "InputError",
        "LambError",
        "MissingStream",
        "SpecMismatch",
        "ToolError",
        "WeightsError",
    ),
    "data.labels": ("EMOTIONS", "LabelSet"),
    "data.spec": ("MODALITIES", "FeatureSpec"),
    "data.track": ("FeatureTrack",),
}


def __getattr__(name: str) -> Any:
    # Late, because numpy alone takes a third of the time in which `lamb --help` must answer.
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
