"""Datasets from what lies on disk: public feature files, or raw texts, sounds, pictures and videos run through the extractors.

In: the name of a source (``data/sources/``) and its folder or file. Out: a dataset folder (``data/dataset.py``), and a summary
that can be held against what was published.

    build_dataset("ravdess", Path("ravdess"), Path("voices"), BuildOptions(modalities=("audio",)), extractors, say)
    print("\\n".join(summary_lines(summarise(Path("voices")))))

Tracks of raw items are kept in ``<output>.work`` until the dataset is whole, so a build that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import Sample
from data.dataset import Dataset, DatasetHeader, Reading, load_dataset, save_dataset
from data.errors import InputError, LambError
from data.labels import EMOTIONS, LabelSet
from data.mosei import N_TEST, RATED_AS, TEST_POSITIVES
from data.sources import FEATURE_SOURCES, NEUTRAL, SOURCES, SPLITS, LabelledItem, Split
from data.spec import MODALITIES, FeatureSpec, Modality
from data.track import FeatureTrack
from lamb.metrics import cooccurrence
from pipeline.video import Extractors

Say = Callable[[str], None]
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
LICENCES = {
    "ravdess": "CC BY-NC-SA 4.0 (RAVDESS)",
    "goemotions": "Apache-2.0 (GoEmotions)",
    "crema-d": "ODbL 1.0 (CREMA-D)",
    "meld": "GPL-3.0 (MELD)",
    "face-stills": "Apache-2.0 (facial_expressions)",
}
PUBLISHED_SIZES = {
    "cmu-mosei": {"train": 16_326, "valid": 1_871, "test": N_TEST},
    "goemotions": {"train": 43_410, "valid": 5_426, "test": 5_427},
    "ravdess": {"train": 960, "valid": 120, "test": 360},
}
PUBLISHED_TEST_POSITIVES = {"cmu-mosei": dict(zip(RATED_AS, TEST_POSITIVES, strict=True))}


@dataclass(frozen=True)
class BuildOptions:
    """``aligned``: rows of audio and visual averaged over words (feature sources). ``modalities``: what is extracted from raw
    items. ``neutral``: a seventh label that holds where no emotion does. ``emotions``: the rating table of MOSEI pickles."""

    aligned: bool = False
    modalities: tuple[Modality, ...] = MODALITIES
    neutral: bool = False
    emotions: Path | None = None


def build_dataset(
    source: str, place: Path, output: Path, options: BuildOptions, extractors: Callable[[], Extractors], say: Say
) -> dict[Split, int]:
    """Write the dataset folder ``output``; samples per split.

    Parameters
    ----------
    extractors : called once, and only if raw items are to be extracted.

    Raises
    ------
    InputError : an unknown source, a wrong layout, or ``output`` is there already. UnknownName.
    """
    if source in FEATURE_SOURCES.names():
        read = FEATURE_SOURCES.get(source)
        if options.emotions is None:
            return save_dataset(read(place, aligned=options.aligned), output)
        if "emotions" not in inspect.signature(read).parameters:
            raise InputError(f"Expected no --emotions for {source}: its labels come with it.", code="bad_option")
        return save_dataset(read(place, aligned=options.aligned, emotions=options.emotions), output)
    if options.aligned or options.emotions is not None:
        raise InputError(
            f"Expected neither --aligned nor --emotions for the raw dataset {source!r}.",
            remedy="They are for feature files of CMU-MOSEI.",
            code="bad_option",
        )
    if output.exists():
        raise InputError(f"Expected no file or folder at {str(output)!r} but there is one.", code="output_exists")
    try:
        items = SOURCES.get(source)(place)
    except LambError as error:
        if error.code != "unknown_name":
            raise
        both = [*SOURCES.names(), *FEATURE_SOURCES.names()]
        raise InputError(
            f"Expected a source among {', '.join(both)} but got {source!r}.", code="unknown_name"
        ) from error
    work = output.with_name(output.name + ".work")
    raw = _RawItems(source, items, work, options, extractors(), say)
    counts = save_dataset(Reading(raw.header, raw.samples()), output)
    shutil.rmtree(raw.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # tracks of other settings, or somebody's own files: they stay
        work.rmdir()
    for reason, n in raw.dropped.items():
        say(f"left out: {n} items, {reason}")
    return counts


@dataclass(eq=False)
class _RawItems:
    """Raw items, their tracks as they are extracted, and what could not be."""

    source: str
    items: list[LabelledItem]
    work: Path
    options: BuildOptions
    extractors: Extractors
    say: Say
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def specs(self) -> dict[Modality, FeatureSpec]:
        return self.extractors.specs

    @property
    def folder(self) -> Path:
        """Where tracks of these extractors are kept until the dataset is whole."""
        specs = json.dumps([spec.fingerprint() for spec in self.specs.values()])
        return self.work / hashlib.sha256(specs.encode()).hexdigest()[:16]

    @property
    def header(self) -> DatasetHeader:
        names = (*EMOTIONS, NEUTRAL) if self.options.neutral else EMOTIONS
        notes = {
            "source": self.source,
            "licence": LICENCES.get(self.source, ""),
            "modalities": list(self.options.modalities),
            "dropped": self.dropped,
        }
        return DatasetHeader(self.source, LabelSet(names), self.specs, False, notes)

    def samples(self) -> Iterator[tuple[Split, Sample]]:
        labels = self.header.label_set
        for number, item in enumerate(self.items):
            if number % 100 == 0:
                self.say(f"{self.source}: {number:,} of {len(self.items):,}")
            try:
                tracks = self._tracks(item)
            except LambError as error:
                self.dropped[f"{error.code}"] += 1
                self.say(f"left out {item.id}: {error}")
                continue
            assert item.split is not None
            names = item.labels or ((NEUTRAL,) if self.options.neutral else ())
            yield (
                item.split,
                Sample(
                    {name: tracks[name].values for name in MODALITIES},
                    {name: tracks[name].valid for name in MODALITIES},
                    labels.encode(names),
                    id=item.id,
                    defined={name: known for name in MODALITIES if (known := tracks[name].defined) is not None},
                    group=item.speaker,
                ),
            )

    def _tracks(self, item: LabelledItem) -> dict[Modality, FeatureTrack]:
        found: dict[Modality, FeatureTrack] = {
            name: FeatureTrack.empty(self.specs[name], "not_extracted") for name in MODALITIES
        }
        if item.path is None:
            return found | _text(item, self.extractors)
        wanted = self.options.modalities
        stem = self.folder / item.id.replace("/", "_")
        if not all(_stem(stem, f"{name}.json").is_file() for name in wanted):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, track in extract_item(item, wanted, self.extractors).items():
                track.save(_stem(stem, name))  # the JSON is written last: its presence means a whole track
        for name in wanted:
            found[name] = FeatureTrack.load(_stem(stem, name))
        return found


def _stem(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}-{ending}")


def extract_item(
    item: LabelledItem, wanted: Iterable[Modality], extractors: Extractors
) -> dict[Modality, FeatureTrack]:
    """The wanted tracks of a sound, picture or video, whole: one item is one utterance. Raises InputError, ToolError."""
    from pipeline.starter_data import still_track, voice_track

    assert item.path is not None
    wanted = tuple(wanted)
    if item.path.suffix.lower() in PICTURES:
        tracks = {name: FeatureTrack.empty(extractors.specs[name], "picture") for name in MODALITIES}
        tracks["visual"] = still_track(item, extractors.settings)
    elif wanted == ("audio",):
        tracks = {"audio": voice_track(item, extractors.settings)}
    elif wanted == ("visual",):
        tracks = extractors.extract_one("facial", item.path).tracks
    elif wanted == ("text",):
        tracks = extractors.extract_one("text", item.path).tracks
    else:
        tracks = extractors.analyse(item.path).tracks
    return {name: tracks[name] for name in wanted}


def _text(item: LabelledItem, extractors: Extractors) -> dict[Modality, FeatureTrack]:
    from extractors.embedding import tokens_track

    return {"text": tokens_track(item.text or "", extractors.vectors)}


# ---- check --------------------------------------------------------------------------------------------------------------


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
    """Groups, ids and identical contents that lie in more than one split."""
    places: dict[str, dict[str, set[str]]] = {"groups": {}, "ids": {}, "contents": {}}
    for split in SPLITS:
        for sample in dataset.splits[split]:
            rows = b"".join(sample.values[name].tobytes() for name in MODALITIES)
            content = hashlib.sha256(rows).hexdigest() if rows else ""
            for kind, key in (("groups", sample.group), ("ids", sample.id), ("contents", content)):
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
    dropped = summary["notes"].get("dropped") or {}
    lines += [f"left out when it was built: {n:,} {reason}" for reason, n in dropped.items()]
    for kind, n in summary["leaks"].items():
        lines.append(f"{kind} in more than one split: {n:,}")
    return lines
