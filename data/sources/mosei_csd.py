"""CMU-MOSEI as the CMU SDK publishes it: four ``.csd`` files (HDF5) and the SDK's folds.

Layout: a folder with ``CMU_MOSEI_TimestampedWordVectors.csd`` (GloVe, 300), ``CMU_MOSEI_COVAREP.csd`` (74),
``CMU_MOSEI_VisualFacet42.csd`` (35), ``CMU_MOSEI_Labels.csd`` and ``standard_folds.json``. The first three hold one entry
per video, which is cut at the labels' intervals, or one per segment (``video[3]``), as the SDK's ``align`` leaves them.

    reading = FEATURE_SOURCES.get("mosei-csd")(Path("cmu_mosei"), aligned=True)

Rows of zeros (pauses in the text, no face) are not valid. One video is in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.alignment import align_to_words, word_mean_spec
from data.errors import InputError
from data.mosei import (
    LABEL_SET,
    LABELS_FILE,
    LICENCE,
    CsdFile,
    Segment,
    cleaned,
    feature_specs,
    label_vector,
    observed,
    read_folds,
    read_ratings,
)
from data.sources import FEATURE_SOURCES, Split
from data.spec import FeatureSpec, Modality
from data.track import FeatureTrack

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import Reading

# Published name first, then what the SDK's deploy() calls the same sequence.
FILES: dict[Modality, tuple[str, str]] = {
    "text": ("CMU_MOSEI_TimestampedWordVectors.csd", "glove_vectors.csd"),
    "audio": ("CMU_MOSEI_COVAREP.csd", "COVAREP.csd"),
    "visual": ("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2.csd"),
}
DEPLOYED_LABELS = "All Labels.csd"
NO_ROWS: dict[Modality, str] = {"text": "no words", "audio": "no acoustic rows", "visual": "no facial rows"}


@FEATURE_SOURCES.register("mosei-csd")
def read(path: Path, aligned: bool = False, complete: bool = True) -> Reading:
    """All labelled segments of the standard folds.

    Parameters
    ----------
    aligned : average audio and visual rows over each word.
    complete : leave out segments for which one of the three sequences has no row at all, as the SDK does
        (``hard_unify``) and the published sets did; False keeps them with that modality masked.

    ``header.notes["dropped"]`` counts what was left out, by reason; it is complete once all samples have been read.
    Raises InputError: a file is missing or has another layout.
    """
    from data.dataset import DatasetHeader, Reading

    files: dict[Modality, Path] = {name: _find(path, names) for name, names in FILES.items()}
    folds = read_folds(path)
    deployed = path / DEPLOYED_LABELS
    table = read_ratings(deployed if deployed.is_file() and not (path / LABELS_FILE).is_file() else path)
    specs = feature_specs("csd")
    published: dict[Modality, FeatureSpec] = {
        **specs,
        "audio": word_mean_spec(specs["audio"]),
        "visual": word_mean_spec(specs["visual"]),
    }
    dropped: Counter[str] = Counter()
    notes = {"source": "CMU-MOSEI, CMU SDK computational sequences", "licence": LICENCE, "dropped": dropped}
    header = DatasetHeader("cmu-mosei", LABEL_SET, published if aligned else specs, aligned, notes)

    def samples() -> Iterator[tuple[Split, Sample]]:
        dropped.clear()
        with ExitStack() as stack:
            sequences: dict[Modality, Sequence] = {
                name: Sequence(stack.enter_context(CsdFile(file)), specs[name]) for name, file in files.items()
            }
            for video, segments in table.videos.items():
                if video not in folds:
                    dropped["in no fold"] += len(segments)
                    continue
                whole = {name: sequence.video(video) for name, sequence in sequences.items()}
                for segment in segments:
                    tracks: dict[Modality, FeatureTrack] = {
                        name: sequences[name].segment(segment, whole[name]) for name in sequences
                    }
                    empty = [NO_ROWS[name] for name, track in tracks.items() if not len(track)]
                    if len(empty) == 3 or (complete and empty):
                        dropped[" and ".join(empty)] += 1
                        continue
                    yield folds[video], _sample(segment, tracks, aligned)

    return Reading(header, samples())


class Sequence:
    """One csd file as tracks."""

    def __init__(self, file: CsdFile, spec: FeatureSpec) -> None:
        self.file, self.spec = file, spec
        self.keys = frozenset(file.keys)

    def video(self, video: str) -> FeatureTrack | None:
        return self._track(video) if video in self.keys else None

    def segment(self, segment: Segment, whole: FeatureTrack | None) -> FeatureTrack:
        """The segment's own entry where there is one, else its part of the whole video, else nothing."""
        key = f"{segment.video}[{segment.number}]"
        if key in self.keys:
            return self._track(key)
        if whole is None:
            return FeatureTrack.empty(self.spec, "not_in_source")
        return whole.slice(segment.start_s, segment.end_s)

    def _track(self, key: str) -> FeatureTrack:
        features, intervals = self.file.rows(key)
        if features.shape[1] != self.spec.dim:
            raise InputError(
                f"Expected {self.spec.dim} {self.spec.modality} columns in {self.file.path.name} but got "
                f"{features.shape[1]} at {key!r}.",
                code="bad_dataset",
            )
        timed = np.isfinite(intervals).all(axis=1)
        values, intervals = cleaned(features[timed]), intervals[timed]
        order = np.argsort(intervals[:, 0], kind="stable")
        values, start_s, end_s = values[order], intervals[order, 0], intervals[order].max(axis=1)
        return FeatureTrack(values, start_s, end_s, observed(values), self.spec)


def _sample(segment: Segment, tracks: dict[Modality, FeatureTrack], aligned: bool) -> Sample:
    from data.batches import Sample

    if aligned:
        text = tracks["text"]
        tracks = {
            "text": text,
            "audio": align_to_words(text, tracks["audio"]),
            "visual": align_to_words(text, tracks["visual"]),
        }
    return Sample(
        {name: track.values for name, track in tracks.items()},
        {name: track.valid for name, track in tracks.items()},
        label_vector(segment.ratings),
        id=f"cmu-mosei/{segment.video}[{segment.number}]",
        group=segment.video,
    )


def _find(folder: Path, names: tuple[str, str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"Expected {names[0]} in {str(folder)!r} but it is not there.",
        remedy="The CMU SDK fetches it: mmsdk.mmdatasdk.mmdataset(cmu_mosei.highlevel, folder).",
        code="no_dataset",
    )
