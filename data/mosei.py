"""CMU-MOSEI: what its readers share: columns, folds, the table of emotion ratings, binarisation, padding.

In: the label file of the CMU SDK (``CMU_MOSEI_Labels.csd``) or the same table as text (``emotion_ratings.csv``), and the
SDK's folds as ``standard_folds.json``. Out: segments with their ratings, label vectors in this project's order, masks.

    table = read_ratings(Path("cmu_mosei"))
    segment = table.at("-3g5yACwYnA", 82.753, 100.555)
    label_vector(segment.ratings)                    # float32 (6,), in the order of data.labels.EMOTIONS

Ratings are 0..3, the mean of three annotators; an emotion counts as present where its rating is above 0. A segment
without any emotion stays in. Times are seconds from the beginning of the whole video.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InputError
from data.labels import EMOTIONS, LabelSet
from data.sources import SPLITS, Split
from data.spec import FeatureSpec, Modality

if TYPE_CHECKING:
    from data.batches import Sample

LICENCE = "CMU-MOSEI: research use"
LABEL_SET = LabelSet(EMOTIONS)
RATED = ("happy", "sad", "anger", "surprise", "disgust", "fear")  # MOSEI's own order
OUR_NAMES = {"happy": "happiness", "sad": "sadness"}  # the other four are named alike
RATED_AS = tuple(OUR_NAMES.get(name, name) for name in RATED)
TEST_POSITIVES = (2502, 1129, 1071, 441, 805, 385)  # of the 4,659 published test segments, in MOSEI's order
N_TEST = 4659

LABELS_FILE, RATINGS_FILE, FOLDS_FILE = "CMU_MOSEI_Labels.csd", "emotion_ratings.csv", "standard_folds.json"
SEGMENT_KEY = re.compile(r"(.+)\[(\d+)\]")
SAME_TIME_S = 0.01  # two tables of the same segments differ by rounding at most
SAME_SENTIMENT = 1e-3
MOST_SELECTIONS = 20_000  # ways to leave segments of a video out that are tried
MOST_UNMATCHED = 0.01  # share of samples without ratings above which the table belongs to other data

COVAREP_COLUMNS = (
    *"F0 VUV NAQ QOQ H1H2 PSP MDQ peakSlope Rd Rd_conf creak".split(),
    *(f"MCEP_{i}" for i in range(25)),
    *(f"HMPDM_{i}" for i in range(25)),
    *(f"HMPDD_{i}" for i in range(13)),
)  # 74
TEXT_EXTRACTORS = {300: ("cmu-mosei-glove", "glove"), 768: ("mmsa-bert", "bert")}


def feature_specs(version: str, text_dim: int = 300) -> dict[Modality, FeatureSpec]:
    """Specs of MOSEI's own features as they lie in one kind of file; ``version`` names the kind.

    They differ from the specs of this project's extractors and from one kind of file to the other on purpose: rates,
    averaging and truncation differ, so a model trained on one is refused on another.
    """
    if text_dim not in TEXT_EXTRACTORS:
        raise InputError(
            f"Expected text rows of 300 (GloVe) or 768 (BERT) columns but got {text_dim}.", code="bad_dataset"
        )
    extractor, prefix = TEXT_EXTRACTORS[text_dim]
    facet = tuple(f"facet_{i}" for i in range(35))
    return {
        "text": FeatureSpec("text", tuple(f"{prefix}_{i}" for i in range(text_dim)), None, extractor, version),
        "audio": FeatureSpec("audio", COVAREP_COLUMNS, None, "cmu-mosei-covarep", version),
        "visual": FeatureSpec("visual", facet, None, "cmu-mosei-facet42", version),
    }


@dataclass(frozen=True)
class Segment:
    """A labelled piece of a video: its number within it, times in seconds, sentiment -3..3, six ratings in MOSEI's order."""

    video: str
    number: int
    start_s: float
    end_s: float
    sentiment: float
    ratings: tuple[float, ...]


class RatingTable:
    """All rated segments, by video."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.videos: dict[str, list[Segment]] = {}
        for segment in segments:
            self.videos.setdefault(segment.video, []).append(segment)

    def at(self, video: str, start_s: float, end_s: float) -> Segment | None:
        """The segment with these times, or None."""
        for segment in self.videos.get(video, []):
            if abs(segment.start_s - start_s) < SAME_TIME_S and abs(segment.end_s - end_s) < SAME_TIME_S:
                return segment
        return None

    def numbered(self, video: str, number: int) -> Segment | None:
        """The segment with this number (the SDK's ``video[number]``), or None."""
        return next((segment for segment in self.videos.get(video, []) if segment.number == number), None)


def label_vector(ratings: Iterable[float]) -> np.ndarray:
    """Six ratings in MOSEI's order to 0/1 labels float32 [shape=(6,)] in the order of ``EMOTIONS``."""
    return LABEL_SET.encode(name for name, rating in zip(RATED_AS, ratings, strict=True) if rating > 0)


def read_ratings(place: Path) -> RatingTable:
    """The table in ``place``: a folder that holds it under either name, or the file. Raises InputError."""
    if place.is_dir():
        place = next((place / name for name in (LABELS_FILE, RATINGS_FILE) if (place / name).is_file()), place)
    if not place.is_file():
        raise InputError(
            f"Expected the emotion ratings as {LABELS_FILE} or {RATINGS_FILE} but found neither at {str(place)!r}.",
            remedy="Put one of them beside the features: the features' own file may hold sentiment only.",
            code="no_dataset",
        )
    return RatingTable(_csd_segments(place) if place.suffix == ".csd" else _csv_segments(place))


def _csv_segments(path: Path) -> Iterator[Segment]:
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            try:
                times = float(row["start"]), float(row["end"]), float(row["sentiment"])
                yield Segment(row["id"], int(row["segment_id"]), *times, tuple(float(row[name]) for name in RATED))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"Expected id, segment_id, start, end, sentiment, {', '.join(RATED)} in {path.name} but got {row}.",
                    code="bad_dataset",
                ) from error


def _csd_segments(path: Path) -> Iterator[Segment]:
    with CsdFile(path) as file:
        for key in file.keys:
            features, intervals = file.rows(key)
            match = SEGMENT_KEY.fullmatch(key)
            video, first = (match[1], int(match[2])) if match else (key, 0)
            if features.shape[1:] != (7,):
                raise InputError(
                    f"Expected 7 columns (sentiment, {', '.join(RATED)}) in {path.name} but got {features.shape[1:]} "
                    f"at {key!r}.",
                    code="bad_dataset",
                )
            for i, (row, (start_s, end_s)) in enumerate(zip(features, intervals, strict=True)):
                ratings = tuple(float(value) for value in row[1:])
                yield Segment(video, first + i, float(start_s), float(end_s), float(row[0]), ratings)


class CsdFile:
    """A computational sequence of the CMU SDK (HDF5): group ``NAME/data/<key>/{features, intervals}``.

    A key is a video, or a segment as ``video[3]``. Raises InputError where the file has another layout.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise InputError(f"Expected an HDF5 file at {str(path)!r} but got {error}.", code="bad_dataset") from error
        try:
            names = list(self._file)
            data = self._file.get(f"{names[0]}/data") if len(names) == 1 else None
            if not isinstance(data, h5py.Group):
                raise ValueError(str(names))
            self.keys = list(data)
        except (ValueError, KeyError, RuntimeError) as error:
            self._file.close()
            raise InputError(
                f"Expected one sequence with a group 'data' in {path.name} but got {error}.", code="bad_dataset"
            ) from error
        self._data: Any = data

    def __enter__(self) -> CsdFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def metadata(self) -> dict[str, Any]:
        """The sequence's description; the SDK keeps every value as JSON. What is no JSON stays text."""
        found: dict[str, Any] = {}
        try:
            group = self._data.parent.get("metadata")
            for name in list(group or ()):
                value = group[name][0]
                found[name] = value.decode() if isinstance(value, bytes) else str(value)
                with contextlib.suppress(ValueError):
                    found[name] = json.loads(found[name])
        except (ValueError, TypeError, OSError, IndexError, AttributeError, KeyError, RuntimeError) as error:
            raise InputError(
                f"Expected metadata as text in {self.path.name} but got {type(error).__name__}: {error}.",
                code="bad_dataset",
            ) from error
        return found

    def array(self, key: str, name: str) -> np.ndarray | None:
        """Another array of a key beside features and intervals, or None."""
        found = self._data[key].get(name)
        return None if found is None else np.asarray(found[()])

    def attributes(self, key: str) -> dict[str, Any]:
        """Attributes of a key's group."""
        return dict(self._data[key].attrs)

    def rows(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Features (T, d) and intervals float64 (T, 2) of a key."""
        try:
            entry = self._data[key]
            features, intervals = entry["features"][()], np.asarray(entry["intervals"][()], np.float64)
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise InputError(f"Expected features and intervals of {key!r} in {self.path.name}: {error}.") from error
        if np.ndim(features) != 2 or intervals.shape != (len(features), 2):
            raise InputError(
                f"Expected features (T, d) and intervals (T, 2) of {key!r} in {self.path.name} but got "
                f"{features.shape} and {intervals.shape}.",
                code="bad_dataset",
            )
        return features, intervals


def read_folds(folder: Path) -> dict[str, Split]:
    """Split of each video, from ``standard_folds.json`` in ``folder``. Raises InputError."""
    path = folder / FOLDS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        folds: dict[str, Split] = {str(video): split for split in SPLITS for video in record[split]}
        if len(folds) != sum(len(record[split]) for split in SPLITS):
            raise ValueError("a video in two folds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'Expected {FOLDS_FILE} ({{"train": [video ids], "valid": [...], "test": [...]}}) in {str(folder)!r} but got '
            f"{type(error).__name__}: {error}.",
            remedy="Write standard_train_fold, standard_valid_fold and standard_test_fold of "
            "mmsdk.mmdatasdk.cmu_mosei.standard_folds into it.",
            code="no_dataset",
        ) from error
    return folds


def cleaned(values: Any) -> np.ndarray:
    """Rows as float32 with NaN and infinity as 0 (COVAREP holds -inf where it took the logarithm of nothing)."""
    rows = np.array(values, np.float32)
    rows[~np.isfinite(rows)] = 0.0
    return rows


def observed(values: np.ndarray) -> np.ndarray:
    """bool [shape=(L,)]: rows that are not all zero, which is how these files write that there was nothing."""
    return np.asarray(values.any(axis=1))


def unpadded(
    rows: dict[Modality, np.ndarray], together: bool
) -> tuple[dict[Modality, np.ndarray], dict[Modality, np.ndarray]]:
    """Drop padding at both ends; values (L, d) and masks (L,), where a row of zeros is one that observed nothing.

    ``together`` cuts all modalities at the same steps, which keeps word-aligned rows aligned.
    """
    masks: dict[Modality, np.ndarray] = {name: observed(values) for name, values in rows.items()}
    return cut(rows, masks, together)


def cut(
    rows: dict[Modality, np.ndarray], masks: dict[Modality, np.ndarray], together: bool
) -> tuple[dict[Modality, np.ndarray], dict[Modality, np.ndarray]]:
    """As :func:`unpadded`, with masks that are known. Values of steps that are not valid become 0."""
    if together:
        anywhere = np.logical_or.reduce(list(masks.values()))
        kept = dict.fromkeys(masks, _extent(anywhere))
    else:
        kept = {name: _extent(mask) for name, mask in masks.items()}
    valid: dict[Modality, np.ndarray] = {name: masks[name][kept[name]] for name in masks}
    return {name: rows[name][kept[name]] * valid[name][:, None] for name in rows}, valid


def _extent(mask: np.ndarray) -> slice:
    steps = np.flatnonzero(mask)
    return slice(int(steps[0]), int(steps[-1]) + 1) if len(steps) else slice(0, 0)


def padded_sample(rows: dict[Modality, np.ndarray], aligned: bool, labels: np.ndarray, id_: str, group: str) -> Sample:
    """A sample from one utterance of the published padded arrays."""
    from data.batches import Sample  # torch, which looking up a reader's name must not load

    values, valid = unpadded({name: cleaned(values) for name, values in rows.items()}, together=aligned)
    return Sample(values, valid, labels, id=id_, group=group)


def match_clips(clips: dict[int, float], segments: list[Segment]) -> dict[int, Segment] | None:
    """Segments of one video by clip number, where clips are numbered in order of time with gaps (MMSA's ids).

    ``clips`` are the sentiments by clip number. The numbers are not the SDK's, so order decides, and the sentiments must
    agree; the table may have a few segments more. None where that leaves no match, or several with other ratings.
    """
    ordered = sorted(segments, key=lambda segment: (segment.start_s, segment.end_s))
    numbers = sorted(clips)
    if len(numbers) > len(ordered) or comb(len(ordered), len(numbers)) > MOST_SELECTIONS:
        return None
    found: dict[tuple[tuple[float, ...], ...], dict[int, Segment]] = {}
    for chosen in combinations(ordered, len(numbers)):
        if all(abs(s.sentiment - clips[n]) < SAME_SENTIMENT for n, s in zip(numbers, chosen, strict=True)):
            found[tuple(segment.ratings for segment in chosen)] = dict(zip(numbers, chosen, strict=True))
    return next(iter(found.values())) if len(found) == 1 else None


def check_aligned(steps: Mapping[Any, int], aligned: bool, path: Path) -> None:
    """Raise InputError unless the sequences have one length exactly where word-aligned ones are asked for."""
    if aligned != (len(set(steps.values())) == 1):
        raise InputError(
            f"Expected {'word-aligned' if aligned else 'unaligned'} sequences in {path.name} but got lengths {steps}.",
            remedy="Use the other setting of --aligned for this file.",
            code="bad_dataset",
        )


def check_matched(dropped: int, total: int, source: str) -> None:
    """Raises InputError if more samples are without ratings than rounding or a few lost segments explain."""
    if dropped > MOST_UNMATCHED * total:
        raise InputError(
            f"Expected emotion ratings for the samples of {source} but {dropped} of {total} have none.",
            remedy="Use the ratings of the same release of CMU-MOSEI as the features.",
            code="bad_dataset",
        )
