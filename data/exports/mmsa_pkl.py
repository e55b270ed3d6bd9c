"""The pickle that MMSA (Tsinghua) trains on: {"train" | "valid" | "test": {"text" (N, L, d), "audio", "vision", …}}.

    EXPORTS.get("mmsa-pkl")(Path("mosei"), Path("mosei_mmsa"))           # mosei_mmsa/unaligned.pkl

Arrays are padded with zeros on the right to the longest of all splits (``max_steps`` caps them, evenly); ``audio_lengths``
and ``vision_lengths`` are at least 1, which MMSA's packing needs; ``id`` and ``raw_text`` (empty: a dataset keeps no words)
are lists. ``regression_labels`` is the 0/1 matrix (N, c): MMSA's own models regress one number, so for several labels their
last layer and loss have to be changed. There is no ``text_bert``. LAMB's own keys, which MMSA does not look at, are
``valid`` and ``defined`` per modality, true lengths, weights, groups, and beside the splits ``lamb`` (a JSON text). With
them source ``mmsa-pkl`` reads an uncapped export back, equal to the bit.

The house rule against pickles is about reading them. MMSA reads nothing else, so this writes one, of numpy arrays, dicts,
lists, strings and numbers. It is in memory as a whole.
"""

from __future__ import annotations

import io
import json
import pickle  # written here, never read (data/foreign.py)
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.exports import EXPORTS, check_new, header_record, new_folder
from data.spec import MODALITIES, Modality

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import Dataset

KEYS: dict[Modality, str] = {"text": "text", "audio": "audio", "visual": "vision"}
FILES = {False: "unaligned.pkl", True: "aligned.pkl"}
PROTOCOL = 4


@EXPORTS.register("mmsa-pkl")
def export(dataset: Path, output: Path, max_steps: tuple[int, int, int] | None = None) -> list[Path]:
    """Write ``output`` itself where it ends in .pkl, else ``unaligned.pkl`` or ``aligned.pkl`` in the new folder ``output``.

    Parameters
    ----------
    max_steps : most steps of text, audio, visual; longer ones lose unobserved rows first, then rows evenly
        (``data.batches.truncate``). Word-aligned rows stay together: the first of them, as many as the smallest cap.

    Raises InputError: no dataset, or something is at ``output``.
    """
    from data.dataset import load_dataset

    loaded = load_dataset(dataset)
    content = _content(loaded, max_steps)
    if output.suffix == ".pkl":
        from data.files import write_whole

        check_new(output)
        stream = io.BytesIO()
        _Pickler(stream, PROTOCOL).dump(content)
        write_whole(output, stream.getvalue())
        return [output]
    name = FILES[loaded.header.aligned]
    with new_folder(output) as folder, (folder / name).open("wb") as stream:
        _Pickler(stream, PROTOCOL).dump(content)
    return [output / name]


class _Pickler(pickle.Pickler):
    """Names arrays as every numpy knows them: by itself numpy 2 writes a module that numpy 1 does not have."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray:
            return np.ndarray, ((0,), "b"), obj.__reduce__()[2]
        return NotImplemented


def _content(dataset: Dataset, max_steps: tuple[int, int, int] | None) -> dict[str, Any]:
    from data.batches import truncate

    header = dataset.header
    caps = (min(max_steps),) * 3 if max_steps and header.aligned else max_steps
    limits: dict[Modality, int | None] = dict(zip(MODALITIES, caps or (None, None, None), strict=True))

    def kept(sample: Sample, name: Modality) -> np.ndarray:
        """Indices of the rows that are written."""
        n, limit = len(sample.valid[name]), limits[name]
        if limit is None or n <= limit:
            return np.arange(n)
        return np.arange(limit) if header.aligned else truncate(sample.valid[name], limit)

    rows = {
        split: [{name: kept(sample, name) for name in MODALITIES} for sample in samples]
        for split, samples in dataset.splits.items()
    }
    longest = {name: max((len(r[name]) for found in rows.values() for r in found), default=0) for name in MODALITIES}
    content: dict[str, Any] = {"lamb": json.dumps(header_record(header), ensure_ascii=False)}
    for split, samples in dataset.splits.items():
        part: dict[str, Any] = {
            "id": [sample.id for sample in samples],
            "raw_text": [""] * len(samples),
            "regression_labels": dataset.labels(split),
            "weight": np.array([sample.weight for sample in samples], np.float32),
            "group": [sample.group for sample in samples],
        }
        for name, key in KEYS.items():
            steps = [found[name] for found in rows[split]]
            values = [sample.values[name][i] for sample, i in zip(samples, steps, strict=True)]
            valid = [sample.valid[name][i] for sample, i in zip(samples, steps, strict=True)]
            length, dim = max(1, longest[name]), header.specs[name].dim
            part[key] = _padded(values, (length, dim), np.float32)
            part[f"{key}_valid"] = _padded(valid, (length,), np.bool_)
            part[f"{key}_steps"] = [len(i) for i in steps]
            part[f"{key}_lengths"] = [max(1, len(i)) for i in steps]
            if any(name in sample.defined for sample in samples):
                known = [s.defined.get(name, np.ones(s.values[name].shape, bool)) for s in samples]
                part[f"{key}_defined"] = _padded(
                    [k[i] for k, i in zip(known, steps, strict=True)], (length, dim), np.bool_
                )
                part[f"{key}_has_defined"] = [name in sample.defined for sample in samples]
        content[split] = part
    return content


def _padded(arrays: Sequence[np.ndarray], shape: tuple[int, ...], kind: Any) -> np.ndarray:
    """(N, *shape), zeros on the right."""
    padded = np.zeros((len(arrays), *shape), kind)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded
