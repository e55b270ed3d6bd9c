"""What the stages hand each other, and the datasets made of it.

Conventions: times are seconds (float64) on the media file's own clock, where 0 is the container's start; feature
values are float32; a step that observed nothing is ``valid = False`` with values 0, never NaN.

    from data import FeatureSpec, FeatureTrack
    spec = FeatureSpec("audio", ("F0", "VUV"), 100.0, "covarep", "1")
    track = FeatureTrack.from_rate(values, spec)          # values: (T, 2)
"""

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
