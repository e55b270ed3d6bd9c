"""``mosei_senti_data_noalign.pkl`` (and its word-aligned sibling ``mosei_senti_data.pkl``), as passed on with MulT.

Layout: a pickle of {"train" | "valid" | "test": {"vision" (N, 500, 35), "audio" (N, 500, 74), "text" (N, 50, 300), "labels",
"id"}}, padded with zeros on the left. ``labels`` are (N, 1, 1), sentiment only; then the emotions come from the rating
table beside the file, joined by id: (video, start, end) or ``video[number]``. Releases with (N, 1, 7) hold the emotions.

    reading = FEATURE_SOURCES.get("mosei-noalign-pkl")(Path("mosei_senti_data_noalign.pkl"))

The whole file is in memory while it is read. Nothing in it is run (``data/foreign.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InputError
from data.foreign import load_pickle
from data.mosei import (
    LABEL_SET,
    LICENCE,
    SAME_SENTIMENT,
    SEGMENT_KEY,
    RatingTable,
    Segment,
    check_aligned,
    check_matched,
    feature_specs,
    label_vector,
    padded_sample,
    read_ratings,
)
from data.sources import FEATURE_SOURCES, SPLITS, Split
from data.spec import Modality

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import Reading

FILES = {False: "mosei_senti_data_noalign.pkl", True: "mosei_senti_data.pkl"}
KEYS: dict[Modality, str] = {"text": "text", "audio": "audio", "visual": "vision"}
UNKNOWN = "not in the rating table"


@FEATURE_SOURCES.register("mosei-noalign-pkl")
def read(path: Path, aligned: bool = False, emotions: Path | None = None) -> Reading:
    """All samples whose ratings are known, in the file's order.

    Parameters
    ----------
    path : the pickle, or a folder that holds it under its usual name.
    aligned : expect the word-aligned sibling.
    emotions : the rating table; default ``CMU_MOSEI_Labels.csd`` or ``emotion_ratings.csv`` beside the pickle.

    ``header.notes["dropped"]`` counts samples that are not in the table. Raises InputError: missing, of another layout,
    aligned when it should not be or the reverse, unsafe, or more than 1 % of the samples not in the table.
    """
    from data.dataset import DatasetHeader, Reading

    path = path / FILES[aligned] if path.is_dir() else path
    content = load_pickle(path)
    try:
        steps = {name: np.shape(content["train"][key])[1] for name, key in KEYS.items()}
        rated = np.shape(content["train"]["labels"])[-1] == 7
        sizes = {split: len(content[split]["labels"]) for split in SPLITS}
        for split in SPLITS:
            if any(len(content[split][key]) != sizes[split] for key in (*KEYS.values(), "id")):
                raise ValueError(f"arrays of different length in {split}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"Expected train, valid and test with text, audio, vision, labels and id in {path.name} but got "
            f"{type(error).__name__}: {error}.",
            code="bad_dataset",
        ) from error
    check_aligned(steps, aligned, path)
    table = None if rated else read_ratings(emotions or path.parent)
    found: dict[Split, list[tuple[str, str, Any]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for id_, label in zip(content[split]["id"], content[split]["labels"], strict=True):
            found[split].append(_identified(id_, np.ravel(label), table))
    dropped = sum(ratings is None for rows in found.values() for _, _, ratings in rows)
    check_matched(dropped, sum(sizes.values()), path.name)
    notes = {"source": f"CMU-MOSEI, {path.name}", "licence": LICENCE, "dropped": {UNKNOWN: dropped} if dropped else {}}
    specs = feature_specs("mult-words" if aligned else "mult")
    header = DatasetHeader("cmu-mosei", LABEL_SET, specs, aligned, notes)

    def samples() -> Iterator[tuple[Split, Sample]]:
        for split in SPLITS:
            for i, (id_, video, ratings) in enumerate(found[split]):
                if ratings is not None:
                    rows: dict[Modality, np.ndarray] = {name: content[split][key][i] for name, key in KEYS.items()}
                    yield split, padded_sample(rows, aligned, label_vector(ratings), f"cmu-mosei/{id_}", video)

    return Reading(header, samples())


def _identified(id_: Any, label: np.ndarray, table: RatingTable | None) -> tuple[str, str, Any]:
    """Id, video and ratings (None where unknown) of a sample."""
    parts = [part.decode() if isinstance(part, bytes) else str(part) for part in np.ravel(np.asarray(id_, object))]
    match = SEGMENT_KEY.fullmatch(parts[0])
    video = match[1] if match else parts[0]
    segment: Segment | None = None
    if table is not None and match:
        segment = table.numbered(video, int(match[2]))
    elif table is not None and len(parts) >= 3:
        segment = table.at(video, float(parts[1]), float(parts[2]))
    if table is None:
        name = parts[0] if match or len(parts) < 3 else f"{video}[{parts[1]}-{parts[2]}]"
        return name, video, tuple(float(value) for value in label[1:])
    if segment is None or abs(segment.sentiment - float(label[0])) > SAME_SENTIMENT:
        return parts[0], video, None
    return f"{video}[{segment.number}]", video, segment.ratings
