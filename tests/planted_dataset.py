"""A small dataset folder whose labels follow from planted columns: for the commands that train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.batches import Sample
from data.dataset import DatasetHeader, Reading, save_dataset
from data.labels import LabelSet
from data.sources import Split
from data.spec import MODALITIES, FeatureSpec, Modality

DIMS: dict[Modality, int] = {"text": 6, "audio": 5, "visual": 4}
NAMES = ("calm", "joy", "rage")
SIZES: dict[Split, int] = {"train": 96, "valid": 48, "test": 48}


def planted_header(name: str = "planted", aligned: bool = False) -> DatasetHeader:
    """Specs of the made-up columns."""
    specs = {
        modality: FeatureSpec(modality, tuple(f"{modality}_{i}" for i in range(n)), None, "planted", "1")
        for modality, n in DIMS.items()
    }
    return DatasetHeader(name, LabelSet(NAMES), specs, aligned, {"licence": "CC0", "dropped": {}})


def planted_samples() -> Iterator[tuple[Split, Sample]]:
    """Label k adds 3 to column 0 of modality k at a third of its steps; one test sample has nothing observed."""
    rng = np.random.default_rng(0)
    for split, n in SIZES.items():
        for i in range(n):
            labels = (rng.random(3) < (0.5, 0.4, 0.3)).astype(np.float32)
            lengths = {
                name: int(rng.integers(4, longest)) for name, longest in zip(MODALITIES, (8, 16, 12), strict=True)
            }
            values = {name: rng.normal(size=(lengths[name], DIMS[name])).astype(np.float32) for name in MODALITIES}
            valid = {name: np.ones(lengths[name], bool) for name in MODALITIES}
            for k, name in enumerate(MODALITIES):
                steps = rng.choice(lengths[name], size=max(2, lengths[name] // 3), replace=False)
                values[name][steps, 0] += 3.0 * labels[k]
            if split == "test" and i == 7:
                for name in MODALITIES:
                    values[name][:], valid[name][:] = 0.0, False
            yield split, Sample(values, valid, labels, id=f"{split}{i}", group=f"{split}{i // 4}")


def planted_folder(folder: Path, aligned: bool = False) -> Path:
    """Write the dataset; returns its folder."""
    save_dataset(
        Reading(planted_header("planted_aligned" if aligned else "planted", aligned), planted_samples()), folder
    )
    return folder
