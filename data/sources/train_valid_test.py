"""``train_valid_test.pt``: CMU-MOSEI word-aligned and binarised, as passed on by the authors of TAILOR and CARAT.

Layout: a torch file with ``settings``, ``dict`` (``tgt``: name → id) and ``train``, ``valid``, ``test``, each with ``src-text``
(N, 60, 300), ``src-audio`` (N, 60, 74), ``src-visual`` (N, 60, 35), padded with zeros on the left, and ``tgt``: per sample the
list [2, label ids, 3]. No ids: where a sample comes from is not known.

    reading = FEATURE_SOURCES.get("train-valid-test-pt")(Path("train_valid_test.pt"))

The whole file is in memory while it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InputError
from data.foreign import load_torch
from data.labels import EMOTIONS
from data.mosei import LABEL_SET, LICENCE, N_TEST, RATED_AS, TEST_POSITIVES, feature_specs, padded_sample
from data.sources import FEATURE_SOURCES, SPLITS, Split
from data.spec import Modality

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import Reading

FILE = "train_valid_test.pt"
KEYS: dict[Modality, str] = {"text": "src-text", "audio": "src-audio", "visual": "src-visual"}
BEGIN, END = 2, 3
FIRST_LABEL = 4  # ids 4..9 are the emotions in MOSEI's order in every public program that reads this file
NAMES = {
    **{name: name for name in EMOTIONS},
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
}


@FEATURE_SOURCES.register("train-valid-test-pt")
def read(path: Path, aligned: bool = False) -> Reading:
    """All samples, in the file's order. The file is word-aligned whether asked for or not; the header says so.

    Label ids are named by the file's own ``dict``. Where that gives other counts than are published for the whole test
    split and MOSEI's order gives them, the order decides, and ``header.notes["labels"]`` says that the names were mended.
    Raises InputError: missing, of another layout, or holding anything but tensors and arrays.
    """
    from data.dataset import DatasetHeader, Reading

    path = path / FILE if path.is_dir() else path
    content = load_torch(path)
    try:
        names, origin = _label_names(content["dict"]["tgt"], [_ids(target) for target in content["test"]["tgt"]])
        for split in SPLITS:
            lengths = {key: len(content[split][key]) for key in (*KEYS.values(), "tgt")}
            if len(set(lengths.values())) != 1:
                raise ValueError(f"{lengths} samples in {split}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"Expected dict, train, valid and test with src-text, src-audio, src-visual and tgt in {path.name} but got "
            f"{type(error).__name__}: {error}.",
            code="bad_dataset",
        ) from error
    notes = {"source": f"CMU-MOSEI, {FILE}", "licence": LICENCE, "labels": origin, "dropped": {}}
    header = DatasetHeader("cmu-mosei", LABEL_SET, feature_specs("train_valid_test"), True, notes)

    def samples() -> Iterator[tuple[Split, Sample]]:
        for split in SPLITS:
            part = content[split]
            for i in range(len(part["tgt"])):
                id_ = f"cmu-mosei/{split}/{i}"
                rows: dict[Modality, np.ndarray] = {name: _array(part[key][i], id_) for name, key in KEYS.items()}
                labels = LABEL_SET.encode(_named(_ids(part["tgt"][i]), names, id_))
                yield split, padded_sample(rows, True, labels, id_, "")

    return Reading(header, samples())


def _array(rows: Any, id_: str) -> np.ndarray:
    array = np.asarray(rows, np.float32)
    if array.ndim != 2:
        raise InputError(f"Expected rows (L, d) in {id_!r} but got shape {array.shape}.", code="bad_dataset")
    return array


def _ids(target: Any) -> list[int]:
    return [int(i) for i in target if int(i) not in (BEGIN, END, 0)]


def _label_names(ids_of_names: dict[Any, Any], test_targets: list[list[int]]) -> tuple[dict[int, str], str]:
    """Our name of each label id, and where the names come from."""
    names = {int(i): NAMES[str(name).lower()] for name, i in ids_of_names.items() if str(name).lower() in NAMES}
    if set(names.values()) != set(EMOTIONS):
        raise ValueError(f"labels {sorted(map(str, ids_of_names))}")
    published = dict(zip(RATED_AS, TEST_POSITIVES, strict=True))
    in_order = dict(enumerate(RATED_AS, FIRST_LABEL))

    def counts(candidate: dict[int, str]) -> dict[str, int]:
        return {name: sum(i in target for target in test_targets) for i, name in candidate.items()}

    if len(test_targets) == N_TEST and counts(names) != published and counts(in_order) == published:
        wrong = sorted(name for i, name in names.items() if in_order.get(i) != name)
        return in_order, f"named by MOSEI's order: the file's own names exchange {', '.join(wrong)}"
    return names, "named by the file"


def _named(ids: list[int], names: dict[int, str], id_: str) -> list[str]:
    try:
        return [names[i] for i in ids]
    except KeyError as error:
        raise InputError(
            f"Expected label ids {sorted(names)} in {id_!r} but got {error}.", code="bad_dataset"
        ) from error
