"""Features that are not those a checkpoint was trained on: what differs, and the option or command that mends it.

In: a checkpoint, the specs of an extractor's tracks or of a dataset. Out: nothing, or SpecMismatch with one line.

    check_extractors(checkpoint, extractors.specs)       # SpecMismatch: ... Add --acoustic-mode compat.
    check_dataset(checkpoint, dataset.header)            # SpecMismatch: ... lamb dataset build ... --vectors ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data.alignment import word_mean_spec
from data.dataset import DatasetHeader
from data.errors import LambError, SpecMismatch
from data.spec import FeatureSpec, Modality

REBUILD = "build the dataset anew with this version of lamb and train again"


def check_extractors(checkpoint: Any, specs: Mapping[Modality, FeatureSpec]) -> frozenset[Modality]:
    """The modalities that must be averaged over words for this checkpoint, which was trained on such means.

    Raises SpecMismatch if some modality that it reads is neither the extractors' nor their means over words.
    """
    averaged = set()
    for name in checkpoint.settings.modalities:
        wanted, ours = checkpoint.specs[name], specs[name]
        if wanted == ours:
            continue
        if name != "text" and wanted == word_mean_spec(ours):
            averaged.add(name)
            continue
        aligned = _is_mean(wanted)
        nearest = word_mean_spec(ours) if aligned else ours
        option = _option(_unaligned(wanted))
        remedy = f"Add {option}." if option else _otherwise(wanted, nearest)
        raise _mismatch(wanted, nearest, remedy)
    return frozenset(averaged)


def check_dataset(checkpoint: Any, header: DatasetHeader) -> None:
    """Raise SpecMismatch unless the dataset's features are those that the checkpoint reads."""
    for name in checkpoint.settings.modalities:
        wanted, theirs = checkpoint.specs[name], header.specs[name]
        if wanted == theirs:
            continue
        build = f"lamb dataset build {header.notes.get('source', 'SOURCE')} PATH --output DIR"
        if _is_mean(wanted) != _is_mean(theirs) and _unaligned(wanted).columns == _unaligned(theirs).columns:
            kind, other = ("means over words", "not") if _is_mean(wanted) else ("not averaged over words", "means")
            aligned = " --aligned" if _is_mean(wanted) else ", without --aligned"
            raise _mismatch(
                wanted,
                theirs,
                f"The checkpoint's {name} rows are {kind}, the dataset's are {other}: {build}{aligned}.",
            )
        option = _option(_unaligned(wanted))
        aligned = " --aligned" if _is_mean(wanted) else ""
        remedy = f"Build it for this checkpoint: {build}{aligned} {option}." if option else _otherwise(wanted, theirs)
        raise _mismatch(wanted, theirs, remedy)


def _mismatch(wanted: FeatureSpec, came: FeatureSpec, remedy: str) -> SpecMismatch:
    return SpecMismatch(
        f"The {wanted.modality} features are not those this checkpoint was trained on: "
        f"{'; '.join(wanted.differences(came))}.",
        remedy=remedy,
    )


def _is_mean(spec: FeatureSpec) -> bool:
    return spec.modality != "text" and spec.rate_hz is None and spec.version.endswith("-words")


def _unaligned(spec: FeatureSpec) -> FeatureSpec:
    """The spec of the tracks that a spec's means over words were taken of, as far as it tells; else the spec itself."""
    if not _is_mean(spec):
        return spec
    return replace(spec, version=spec.version.removesuffix("-words"))


def _option(wanted: FeatureSpec) -> str:
    """The option with which lamb's own extractors give features of this spec, "" where none does."""

    def gives(spec: FeatureSpec) -> bool:
        return replace(spec, rate_hz=None) == replace(wanted, rate_hz=None)

    if wanted.modality == "text":
        return _vectors_option(wanted)
    if wanted.modality == "audio":
        from extractors.acoustic import acoustic_spec

        return next((f"--acoustic-mode {mode}" for mode in ("fixed", "compat") if gives(acoustic_spec(mode))), "")
    from extractors.facial import FACE_BACKENDS, facial_spec

    for name in FACE_BACKENDS.names():
        try:
            found = gives(facial_spec(name))
        except LambError:  # not installed here: its name is all there is to go by
            found = wanted.extractor in (name, f"{name}-v1")
        if found:
            return f"--face-backend {name}"
    return ""


def _vectors_option(wanted: FeatureSpec) -> str:
    from extractors.embedding import DIMENSIONS, EXTRACTOR, PACKAGED, VERSION, EmbeddingSettings, WordVectors, text_spec

    if (wanted.extractor, wanted.version) != (EXTRACTOR, VERSION):
        return ""
    names = [name for name, dim in DIMENSIONS.items() if dim == wanted.dim]
    if names == [PACKAGED]:
        if text_spec(WordVectors.open(EmbeddingSettings())) == wanted:
            return f"--vectors {PACKAGED}"
        return f"--vectors {PACKAGED} --vectors-path FILE (the text with sha256 {wanted.weights[:12]}…)"
    option = " or ".join(f"--vectors {name}" for name in names)
    return f"{option} (the file with sha256 {wanted.weights[:12]}…)" if option else ""


def _otherwise(wanted: FeatureSpec, came: FeatureSpec) -> str:
    if wanted.extractor == came.extractor and wanted.columns == came.columns:
        return f"It reads {wanted.extractor} {wanted.version}: {REBUILD}."
    return (
        f"It reads {wanted.extractor} {wanted.version}, which no option of lamb makes: use datasets of that source "
        f"(lamb evaluate), or {REBUILD}."
    )
