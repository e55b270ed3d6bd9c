"""What is in a dataset folder: sizes, labels, lengths, coverage, leaks between splits, and what was published beside them.

In: a dataset folder (``data/dataset.py``). Out: plain JSON values, and lines for people.

    print("\n".join(summary_lines(summarise(Path("voices")))))
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset, load_dataset
from data.mosei import N_TEST, RATED_AS, TEST_POSITIVES
from data.sources import SPLITS, Split
from data.spec import MODALITIES
from lamb.metrics import cooccurrence

TIMES = re.compile(r":[\d.]+-[\d.]*$")  # of an utterance's id, after its file
PUBLISHED_SIZES = {
    "cmu-mosei": {"train": 16_326, "valid": 1_871, "test": N_TEST},
    "goemotions": {"train": 43_410, "valid": 5_426, "test": 5_427},
    "ravdess": {"train": 960, "valid": 120, "test": 360},
}
PUBLISHED_TEST_POSITIVES = {"cmu-mosei": dict(zip(RATED_AS, TEST_POSITIVES, strict=True))}


def summarise(folder: Path) -> dict[str, Any]:
    """What is in a dataset folder, as plain JSON values: sizes, labels, lengths, coverage, leaks, published counts."""
    dataset = load_dataset(folder)
    header = dataset.header
    names = header.label_set.names
    splits = {split: _split_summary(dataset, split) for split in SPLITS if dataset.splits[split]}
    published = PUBLISHED_SIZES.get(header.name, {})
    positives = PUBLISHED_TEST_POSITIVES.get(header.name)
    return {
        "name": header.name,
        "aligned": header.aligned,
        "labels": list(names),
        "features": {n: f"{s.dim} columns, {s.extractor} {s.version}" for n, s in header.specs.items()},
        "notes": header.notes,
        "splits": splits,
        "cooccurrence": _cooccurrence(dataset),
        "leaks": _leaks(dataset),
        "published": {
            "sizes": {split: {"published": n, "here": len(dataset.splits[split])} for split, n in published.items()},  # type: ignore[index]
            "test_positives": None
            if positives is None
            else {
                name: {"published": n, "here": splits.get("test", {}).get("positives", {}).get(name, 0)}
                for name, n in positives.items()
            },
        },
    }


def _split_summary(dataset: Dataset, split: Split) -> dict[str, Any]:
    samples, labels = dataset.splits[split], dataset.labels(split)
    modalities = {}
    for name in MODALITIES:
        steps = np.array([sample.n_steps(name) for sample in samples])
        seen = steps[steps > 0]
        modalities[name] = {
            "present": float((steps > 0).mean()),
            "observed_rows": int(sum(sample.valid[name].sum() for sample in samples)),
            "steps_median": float(np.median(seen)) if len(seen) else 0.0,
            "steps_p95": float(np.quantile(seen, 0.95)) if len(seen) else 0.0,
            "steps_max": int(seen.max(initial=0)),
        }
    return {
        "samples": len(samples),
        "groups": len({sample.group for sample in samples if sample.group}),
        "positives": dict(zip(dataset.header.label_set.names, labels.sum(axis=0).astype(int).tolist(), strict=True)),
        "labels_per_sample": float(labels.sum(axis=1).mean()),
        "without_label": int((labels.sum(axis=1) == 0).sum()),
        "unobserved": sum(not any(sample.presence) for sample in samples),
        "modalities": modalities,
    }


def _cooccurrence(dataset: Dataset) -> list[list[int]]:
    labels = np.concatenate([dataset.labels(split) for split in SPLITS])
    return cooccurrence(labels).tolist()


def _leaks(dataset: Dataset) -> dict[str, int]:
    """Groups (speakers), files, ids and identical contents that lie in more than one split."""
    places: dict[str, dict[str, set[str]]] = {"groups": {}, "files": {}, "ids": {}, "contents": {}}
    for split in SPLITS:
        for sample in dataset.splits[split]:
            rows = b"".join(sample.values[name].tobytes() for name in MODALITIES)
            content = hashlib.sha256(rows).hexdigest() if rows else ""
            file = TIMES.sub("", sample.id)
            for kind, key in (("groups", sample.group), ("files", file), ("ids", sample.id), ("contents", content)):
                if key:
                    places[kind].setdefault(key, set()).add(split)
    return {kind: sum(len(splits) > 1 for splits in found.values()) for kind, found in places.items()}


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary for people."""
    lines = [f"{summary['name']}  {'word-aligned' if summary['aligned'] else 'unaligned'}"]
    lines += [f"  {name:<7} {what}" for name, what in summary["features"].items()]
    for split, found in summary["splits"].items():
        sizes = summary["published"]["sizes"].get(split)
        beside = f" (published {sizes['published']:,})" if sizes else ""
        lines.append(
            f"{split}: {found['samples']:,} samples{beside}, {found['groups']:,} groups, "
            f"{found['labels_per_sample']:.3f} labels per sample, {found['without_label']:,} without a label, "
            f"{found['unobserved']:,} with nothing observed"
        )
        lines.append("  " + "  ".join(f"{name} {n:,}" for name, n in found["positives"].items()))
        for name, m in found["modalities"].items():
            lines.append(
                f"  {name:<7} in {m['present']:.1%} of samples, steps: median {m['steps_median']:.0f}, 95 % below "
                f"{m['steps_p95']:.0f}, longest {m['steps_max']}"
            )
    if summary["published"]["test_positives"]:
        lines.append("test positives, here and published:")
        for name, n in summary["published"]["test_positives"].items():
            lines.append(f"  {name:<10} {n['here']:>6,} {n['published']:>6,}")
    lines += _together_lines(summary)
    dropped = summary["notes"].get("dropped") or {}
    lines += [f"left out when it was built: {n:,} {reason}" for reason, n in dropped.items()]
    for kind, n in summary["leaks"].items():
        lines.append(f"{kind} in more than one split: {n:,}")
    return lines


def _together_lines(summary: dict[str, Any]) -> list[str]:
    """How often labels hold together: a row and a column per label, and how often each holds in all."""
    names = [name[:10] for name in summary["labels"]]
    rows = [
        f"  {name:<10} " + " ".join(f"{n:>10,}" for n in counts)
        for name, counts in zip(names, summary["cooccurrence"], strict=True)
    ]
    return ["labels that hold together:", " " * 13 + " ".join(f"{name:>10}" for name in names), *rows]


def short_lines(summary: dict[str, Any]) -> list[str]:
    """What somebody wants to see who has just built a dataset: sizes, labels, coverage, and what is wrong with it."""
    splits, notes = summary["splits"], summary["notes"]
    labels = summary["labels"]
    width = max(len(name) for name in (*labels, "samples"))
    seconds = notes.get("seconds") or {}
    rows: list[tuple[str, list[str]]] = [
        ("", list(splits)),
        ("samples", [f"{found['samples']:,}" for found in splits.values()]),
        ("speakers or files" if notes.get("split_by") else "groups", [f"{f['groups']:,}" for f in splits.values()]),
    ]
    if seconds:
        rows.append(("minutes", [f"{seconds.get(split, {}).get('total', 0) / 60:.1f}" for split in splits]))
    rows += [(name, [f"{found['positives'][name]:,}" for found in splits.values()]) for name in labels]
    rows.append(("no label", [f"{found['without_label']:,}" for found in splits.values()]))
    for name in MODALITIES:
        rows.append((f"{name} seen", [f"{found['modalities'][name]['present']:.0%}" for found in splits.values()]))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  " + "  ".join(f"{cell:>9}" for cell in cells) for name, cells in rows]
    if notes.get("split_by") and notes["split_by"] != "given":
        lines.append(f"splits were chosen: kept apart by {notes['split_by']}, labels in proportion")
    return lines + [f"note: {line}" for line in warnings_of(summary)]


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """What makes results on this dataset worth less, a line each."""
    found, splits = [], summary["splits"]
    for split in SPLITS:
        if split not in splits:
            found.append(f"there are no {split} samples")
        elif missing := [name for name, n in splits[split]["positives"].items() if n == 0]:
            found.append(f"no {split} sample has {', '.join(missing)}")
    said = {
        "groups": "speakers (or source videos) are",
        "files": "files are",
        "ids": "ids are",
        "contents": "identical contents are",
    }
    found += [f"{n:,} {said[kind]} in more than one split" for kind, n in summary["leaks"].items() if n]
    unobserved = sum(split["unobserved"] for split in splits.values())
    if unobserved:
        found.append(f"in {unobserved:,} samples nothing was observed: no words, no voice, no face")
    found += [f"left out: {n:,} rows, {why}" for why, n in (summary["notes"].get("dropped") or {}).items()]
    return found
