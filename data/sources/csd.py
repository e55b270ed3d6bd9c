"""Computational sequences of the CMU-Multimodal SDK (HDF5), of any columns and labels.

Layout: a folder with ``text.csd``, ``audio.csd``, ``visual.csd``, ``All Labels.csd`` and ``folds.json`` or
``standard_folds.json`` ({"train": [keys or videos], "valid": […], "test": […]}). Two kinds:

- written by ``lamb dataset export csd``: masks, groups and columns lie in the files (``data/exports/csd.py``);
- sequences by others, put there under these names: an entry per video, which is cut at the labels' intervals, or per
  segment (``video[3]``). "dimension names" in the labels' metadata must name them; a label holds where its number is above
  0. A row of zeros observed nothing, segments in no fold or without any row are dropped and counted, the video is the
  group.

CMU-MOSEI under its published names, with its own folds and counts, is read by ``mosei-csd``.

    reading = FEATURE_SOURCES.get("csd")(Path("voices_csd"))
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.alignment import align_to_words, word_mean_spec
from data.errors import InputError
from data.exports import check_asked, checked, header_from
from data.exports.csd import FILES, FOLDS_FILE, HEADER_KEY, LABELS_FILE
from data.labels import LabelSet
from data.mosei import SEGMENT_KEY, CsdFile, Segment, observed
from data.sources import FEATURE_SOURCES, SPLITS, Split
from data.sources.mosei_csd import Sequence
from data.spec import MODALITIES, FeatureSpec, Modality
from data.track import FeatureTrack

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import DatasetHeader, Reading

STANDARD_FOLDS = "standard_folds.json"
DIMENSIONS = "dimension names"
NO_FOLD, NO_ROWS = "in no fold", "no rows"


@FEATURE_SOURCES.register("csd")
def read(path: Path, aligned: bool = False) -> Reading:
    """All samples: an export in its order, others by video. Raises InputError: a file is missing or has another layout, or an
    export that is not word-aligned is asked to be."""
    folds = _folds(path)
    described = {}
    for name, file in (*FILES.items(), ("labels", LABELS_FILE)):
        if not (path / file).is_file():
            raise InputError(f"Expected {file} in {str(path)!r} but it is not there.", code="no_dataset")
        with CsdFile(path / file) as sequence:
            described[name] = sequence.metadata()
    if HEADER_KEY in described["labels"]:
        header = header_from(described["labels"][HEADER_KEY], str(path / LABELS_FILE))
        check_asked(header, aligned, str(path))
        return _exported(path, header, folds)
    return _foreign(path, described, folds, aligned)


def _folds(folder: Path) -> dict[str, Split]:
    """Split of each key or video, in the file's order."""
    path = next((folder / name for name in (FOLDS_FILE, STANDARD_FOLDS) if (folder / name).is_file()), None)
    try:
        if path is None:
            raise ValueError("neither")
        record = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Split] = {str(key): split for split in SPLITS for key in record[split]}
        if len(found) != sum(len(record[split]) for split in SPLITS):
            raise ValueError("a key in two folds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'Expected {FOLDS_FILE} or {STANDARD_FOLDS} ({{"train": [keys], "valid": […], "test": […]}}) in {str(folder)!r} '
            f"but got {type(error).__name__}: {error}.",
            code="no_dataset",
        ) from error
    return found


# ---- written by us ------------------------------------------------------------------------------------------------------


def _exported(path: Path, header: DatasetHeader, folds: dict[str, Split]) -> Reading:
    from data.batches import Sample
    from data.dataset import Reading

    def samples() -> Iterator[tuple[Split, Sample]]:
        with ExitStack() as stack:
            files = {name: stack.enter_context(CsdFile(path / file)) for name, file in FILES.items()}
            keys = {name: frozenset(file.keys) for name, file in files.items()}
            labels = stack.enter_context(CsdFile(path / LABELS_FILE))
            for key, split in folds.items():
                values: dict[Modality, np.ndarray] = {}
                valid: dict[Modality, np.ndarray] = {}
                defined: dict[Modality, np.ndarray] = {}
                for name in MODALITIES:
                    dim = header.specs[name].dim
                    values[name], known, mask = np.zeros((0, dim), np.float32), None, None
                    if key in keys[name]:
                        values[name] = np.asarray(files[name].rows(key)[0], np.float32)
                        known, mask = files[name].array(key, "valid"), files[name].array(key, "defined")
                    valid[name] = observed(values[name]) if known is None else known.astype(bool)
                    if mask is not None:
                        defined[name] = mask.astype(bool)
                about = labels.attributes(key)
                sample = Sample(
                    values,
                    valid,
                    np.asarray(labels.rows(key)[0][0], np.float32),
                    float(about["weight"]),
                    str(about["id"]),
                    defined,
                    str(about["group"]),
                )
                yield split, checked(sample, header)

    return Reading(header, _checked(samples(), path))


def _checked(samples: Iterator[tuple[Split, Sample]], path: Path) -> Iterator[tuple[Split, Sample]]:
    try:
        yield from samples
    except (KeyError, IndexError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise InputError(
            f"Expected an exported dataset in {str(path)!r} but got {type(error).__name__}: {error}.",
            code="bad_dataset",
        ) from error


# ---- written by others --------------------------------------------------------------------------------------------------


def _foreign(path: Path, described: dict[str, dict[str, Any]], folds: dict[str, Split], aligned: bool) -> Reading:
    from data.dataset import DatasetHeader, Reading

    names = _dimensions(described["labels"])
    if not names:
        raise InputError(
            f"Expected {DIMENSIONS!r} in the metadata of {LABELS_FILE} in {str(path)!r}, which name the labels, but got "
            f"{described['labels'].get(DIMENSIONS)!r}.",
            code="bad_dataset",
        )
    specs: dict[Modality, FeatureSpec] = {name: _spec(path / FILES[name], name, described[name]) for name in MODALITIES}
    published: dict[Modality, FeatureSpec] = {
        **specs,
        "audio": word_mean_spec(specs["audio"]),
        "visual": word_mean_spec(specs["visual"]),
    }
    dropped: Counter[str] = Counter()
    name = str(described["labels"].get("dataset name") or path.resolve().name)
    notes = {"source": f"{name}, CMU SDK computational sequences", "licence": "", "dropped": dropped}
    header = DatasetHeader(name, LabelSet(names), published if aligned else specs, aligned, notes)

    def samples() -> Iterator[tuple[Split, Sample]]:
        dropped.clear()
        with ExitStack() as stack:
            sequences: dict[Modality, Sequence] = {
                name: Sequence(stack.enter_context(CsdFile(path / file)), specs[name]) for name, file in FILES.items()
            }
            labels = stack.enter_context(CsdFile(path / LABELS_FILE))
            for key in labels.keys:
                match = SEGMENT_KEY.fullmatch(key)
                video, first = (match[1], int(match[2])) if match else (key, 0)
                split = folds[key] if key in folds else folds.get(video)
                features, intervals = labels.rows(key)
                if split is None:
                    dropped[NO_FOLD] += len(features)
                    continue
                whole = {name: sequence.video(video) for name, sequence in sequences.items()}
                for i, (row, (start_s, end_s)) in enumerate(zip(features, intervals, strict=True)):
                    segment = Segment(video, first + i, float(start_s), float(end_s), 0.0, ())
                    tracks: dict[Modality, FeatureTrack] = {
                        name: sequences[name].segment(segment, whole[name]) for name in sequences
                    }
                    if not any(len(track) for track in tracks.values()):
                        dropped[NO_ROWS] += 1
                        continue
                    yield split, _sample(segment, tracks, row, header)

    return Reading(header, samples())


def _dimensions(described: dict[str, Any]) -> tuple[str, ...]:
    names = described.get(DIMENSIONS)
    names = tuple(str(name) for name in names) if isinstance(names, list) else ()
    return names if len(set(names)) == len(names) else ()


def _spec(path: Path, modality: Modality, described: dict[str, Any]) -> FeatureSpec:
    with CsdFile(path) as file:
        if not file.keys:
            raise InputError(f"Expected entries in {str(path)!r} but there is none.", code="bad_dataset")
        dim = file.rows(file.keys[0])[0].shape[1]
    names = _dimensions(described)
    columns = names if len(names) == dim else tuple(f"{modality}_{i}" for i in range(dim))
    version = str(described.get("computational sequence version", ""))
    return FeatureSpec(modality, columns, None, f"csd {described.get('root name', path.stem)}", version)


def _sample(segment: Segment, tracks: dict[Modality, FeatureTrack], row: np.ndarray, header: DatasetHeader) -> Sample:
    from data.batches import Sample

    if len(row) != len(header.label_set):
        raise InputError(
            f"Expected {len(header.label_set)} labels of {segment.video!r} in {LABELS_FILE} but got {len(row)}.",
            code="bad_dataset",
        )
    if header.aligned:
        text = tracks["text"]
        tracks = {
            "text": text,
            "audio": align_to_words(text, tracks["audio"]),
            "visual": align_to_words(text, tracks["visual"]),
        }
    return Sample(
        {name: track.values for name, track in tracks.items()},
        {name: track.valid for name, track in tracks.items()},
        (np.asarray(row) > 0).astype(np.float32),
        id=f"{header.name}/{segment.video}[{segment.number}]",
        group=segment.video,
    )
