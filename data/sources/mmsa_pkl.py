"""``unaligned_50.pkl`` and ``aligned_50.pkl`` of MMSA (Tsinghua) for CMU-MOSEI.

Layout: a pickle of {"train" | "valid" | "test": {"id" ("video$_$clip"), "text" (N, 50, 768) by BERT or (N, 50, 300),
"text_bert" (N, 3, 50): tokens, mask, types, "audio" (N, L, 74), "vision" (N, L, 35), "regression_labels" (N,), …}}.
Sentiment only: the emotions come from the rating table beside the file. Clip numbers are not the SDK's; a video's clips are
matched to its rated segments by order in time, and the sentiments must agree. What ``lamb dataset export mmsa-pkl`` wrote
has its own labels and masks (``data/exports/mmsa_pkl.py``) and needs no table.

    reading = FEATURE_SOURCES.get("mmsa-pkl")(Path("unaligned_50.pkl"))

The whole file is in memory while it is read. Nothing in it is run (``data/foreign.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InputError
from data.exports import check_asked, checked, header_from
from data.exports.mmsa_pkl import FILES as EXPORTED
from data.exports.mmsa_pkl import KEYS
from data.foreign import load_pickle
from data.mosei import (
    LABEL_SET,
    LICENCE,
    RatingTable,
    Segment,
    check_aligned,
    check_matched,
    cleaned,
    cut,
    feature_specs,
    label_vector,
    match_clips,
    observed,
    read_ratings,
)
from data.sources import FEATURE_SOURCES, SPLITS, Split
from data.spec import Modality

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import Reading

FILES = {False: "unaligned_50.pkl", True: "aligned_50.pkl"}
SEPARATOR = "$_$"
BERT_DIM = 768
UNMATCHED = "no certain match in the rating table"


@FEATURE_SOURCES.register("mmsa-pkl")
def read(path: Path, aligned: bool = False, emotions: Path | None = None) -> Reading:
    """All samples whose ratings are known, in the file's order.

    Parameters
    ----------
    path : the pickle, or a folder that holds it under its usual name.
    aligned : expect ``aligned_50.pkl``.
    emotions : the rating table; default ``CMU_MOSEI_Labels.csd`` or ``emotion_ratings.csv`` beside the pickle.

    ``header.notes["dropped"]`` counts samples without a certain match. Raises InputError: missing, of another layout, aligned
    when it should not be or the reverse, unsafe, or more than 1 % of the samples without a match.
    """
    from data.dataset import DatasetHeader, Reading

    path = _file(path, aligned) if path.is_dir() else path
    content = load_pickle(path)
    if isinstance(content, dict) and "lamb" in content:
        return _exported(content, path, aligned)
    try:
        steps = {name: np.shape(content["train"][key])[1] for name, key in KEYS.items()}
        text_dim = np.shape(content["train"]["text"])[2]
        ids: dict[Split, list[tuple[str, int]]] = {
            split: [_clip(id_) for id_ in content[split]["id"]] for split in SPLITS
        }
        sentiments: dict[Split, np.ndarray] = {split: np.ravel(content[split]["regression_labels"]) for split in SPLITS}
        for split in SPLITS:
            if {len(content[split][key]) for key in KEYS.values()} | {len(sentiments[split])} != {len(ids[split])}:
                raise ValueError(f"arrays of different length in {split}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"Expected train, valid and test with id, text, audio, vision and regression_labels in {path.name} but got "
            f"{type(error).__name__}: {error}.",
            code="bad_dataset",
        ) from error
    check_aligned(steps, aligned, path)
    segments = _matched(ids, sentiments, read_ratings(emotions or path.parent))
    total = sum(len(clips) for clips in ids.values())
    dropped = total - len(segments)
    check_matched(dropped, total, path.name)
    notes = {
        "source": f"CMU-MOSEI, MMSA {path.name}",
        "licence": LICENCE,
        "dropped": {UNMATCHED: dropped} if dropped else {},
    }
    specs = feature_specs("mmsa-words" if aligned else "mmsa", text_dim)
    header = DatasetHeader("cmu-mosei", LABEL_SET, specs, aligned, notes)

    def samples() -> Iterator[tuple[Split, Sample]]:
        from data.batches import Sample

        for split in SPLITS:
            for i, clip in enumerate(ids[split]):
                segment = segments.get(clip)
                if segment is not None:
                    values, valid = _rows(content[split], i, aligned)
                    labels = label_vector(segment.ratings)
                    yield split, Sample(values, valid, labels, id=f"cmu-mosei/{clip[0]}$_${clip[1]}", group=clip[0])

    return Reading(header, samples())


def _file(folder: Path, aligned: bool) -> Path:
    names = FILES[aligned], EXPORTED[aligned], EXPORTED[not aligned]  # an export says itself what it is
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def _exported(content: dict[str, Any], path: Path, aligned: bool) -> Reading:
    """A dataset that was exported to this layout."""
    from data.batches import Sample
    from data.dataset import Reading

    try:
        record = json.loads(content["lamb"])
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected JSON at 'lamb' in {path.name} but got {error}.", code="bad_dataset") from error
    header = header_from(record, path.name)
    check_asked(header, aligned, path.name)

    def sample(part: dict[str, Any], i: int) -> Sample:
        values: dict[Modality, np.ndarray] = {}
        valid: dict[Modality, np.ndarray] = {}
        defined: dict[Modality, np.ndarray] = {}
        for name, key in KEYS.items():
            n = int(part[f"{key}_steps"][i])
            values[name] = np.array(part[key][i][:n], np.float32)
            valid[name] = np.array(part[f"{key}_valid"][i][:n], bool)
            if part.get(f"{key}_has_defined", {i: False})[i]:
                defined[name] = np.array(part[f"{key}_defined"][i][:n], bool)
        labels = np.array(part["regression_labels"][i], np.float32)
        return Sample(
            values, valid, labels, float(part["weight"][i]), str(part["id"][i]), defined, str(part["group"][i])
        )

    def samples() -> Iterator[tuple[Split, Sample]]:
        try:
            for split in SPLITS:
                for i in range(len(content[split]["id"])):
                    yield split, checked(sample(content[split], i), header)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise InputError(
                f"Expected an exported dataset in {path.name} but got {type(error).__name__}: {error}.",
                code="bad_dataset",
            ) from error

    return Reading(header, samples())


def _clip(id_: Any) -> tuple[str, int]:
    video, number = str(id_).rsplit(SEPARATOR, 1)
    return video, int(number)


def _matched(
    ids: dict[Split, list[tuple[str, int]]], sentiments: dict[Split, np.ndarray], table: RatingTable
) -> dict[tuple[str, int], Segment]:
    clips: dict[str, dict[int, float]] = {}
    for split in SPLITS:
        for (video, number), sentiment in zip(ids[split], sentiments[split], strict=True):
            clips.setdefault(video, {})[number] = float(sentiment)
    found = {}
    for video, numbers in clips.items():
        pairs = match_clips(numbers, table.videos.get(video, [])) or {}
        found.update({(video, number): segment for number, segment in pairs.items()})
    return found


def _rows(part: dict[str, Any], i: int, aligned: bool) -> tuple[dict[Modality, np.ndarray], dict[Modality, np.ndarray]]:
    rows: dict[Modality, np.ndarray] = {name: cleaned(part[key][i]) for name, key in KEYS.items()}
    masks: dict[Modality, np.ndarray] = {name: observed(values) for name, values in rows.items()}
    if "text_bert" in part and rows["text"].shape[1] == BERT_DIM:  # numbers for padding too: only BERT's mask tells
        masks["text"] &= np.asarray(part["text_bert"][i])[1] > 0
    return cut(rows, masks, together=aligned)
