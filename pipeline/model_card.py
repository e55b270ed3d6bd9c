"""The model card of a training run: README.md beside its checkpoint, written from what was measured and recorded.

In: a checkpoint with its metrics and provenance, as :mod:`pipeline.train` leaves them. Out: Markdown, with the header that
the Hugging Face hub reads. No number of it is typed by hand; what an older checkpoint did not record is left out.

    Path("README.md").write_text(model_card(checkpoint))
    train_command(settings)                # "lamb train --dataset mosei --output RUN --set training.seed=1"
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from data.spec import MODALITIES
from pipeline.balance import FEW, SPOKEN
from pipeline.run_settings import RunSettings

CARD_NAME = "README.md"
WEAK_F1 = 0.4
METRICS = {"accuracy": "accuracy", "micro_f1": "micro-F1", "macro_f1": "macro-F1", "mean_average_precision": "mAP"}
FRONT = {"library_name": "lamb", "tags": ["emotion-recognition", "multimodal", "multi-label"], "license": "other"}


def train_command(settings: RunSettings) -> str:
    """The command that makes this run: every setting that is not the default, folders by their last names."""
    parts = ["lamb", "train", "--dataset", settings.dataset.name or "DATASET", "--output", "RUN"]
    if settings.start is not None:
        parts += ["--from", settings.start.name or "CHECKPOINT"]
    for key, value in _changes(settings, "start" if settings.start is not None else ""):
        parts += ["--set", f"{key}={_plain(value)}"]
    return shlex.join(parts)


def _changes(settings: RunSettings, start: str) -> Iterable[tuple[str, Any]]:
    """Settings that differ from their defaults, but for what comes from the dataset or the checkpoint to start from."""
    from lamb.transfer import FREE

    taken = {"spread_steps", "clip_std", "training.max_steps", "training.truncation"} if start else set()
    default = RunSettings(dataset=settings.dataset)
    for key in RunSettings.model_fields:
        if key in ("dataset", "start"):
            continue
        mine, theirs = getattr(settings, key), getattr(default, key)
        if key not in ("model", "training"):
            if mine != theirs and key not in taken:
                yield key, mine
            continue
        for inner in type(mine).model_fields:
            if inner in ("dims", "n_labels") or f"{key}.{inner}" in taken:
                continue
            if start and key == "model" and inner not in FREE:
                continue
            if getattr(mine, inner) != getattr(theirs, inner):
                yield f"{key}.{inner}", getattr(mine, inner)


def _plain(value: Any) -> str:
    """A value as YAML on one line."""
    listed = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(listed, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def model_card(checkpoint: Any) -> str:
    """Markdown: what it is, what it was trained on, results per label, what it cannot know, the commands."""
    about, metrics = checkpoint.provenance, checkpoint.metrics
    split = "test" if "test" in metrics else "valid"
    results = metrics.get(split)
    lines = [
        "---",
        yaml.safe_dump(FRONT, sort_keys=False).strip(),
        "---",
        "",
        f"# {about.get('name', 'LAMB checkpoint')}",
        "",
        f"LAMB, multi-label emotion detection from the words, the voice and the face of video: width "
        f"{checkpoint.settings.width}, {checkpoint.model.n_parameters():,} parameters, labels "
        f"{', '.join(checkpoint.label_set.names)}. It reads {_and(SPOKEN[name] for name in checkpoint.settings.modalities)}.",
        "",
        "    lamb predict --checkpoint RUN clip.mp4",
        *([f"    {about['command']}    # made it"] if "command" in about else []),
        "",
        f"Licence: {checkpoint.licence or 'not stated'}.",
        "",
        *_data(checkpoint),
        *_features(checkpoint),
    ]
    if results is not None:
        lines += [*_results(checkpoint, results, split), *_hidden(metrics.get("hidden"))]
    lines += _limits(checkpoint, results)
    if "settings" in about:
        settings = about["settings"] | {"model": checkpoint.settings.model_dump(mode="json")}
        shown = "\n".join(
            f"{key}: {_plain(value)}" if not isinstance(value, dict) else f"{key}:\n{_indented(value)}"
            for key, value in settings.items()
        )
        lines += ["## Settings", "", "```yaml", shown, "```", ""]
    return "\n".join(lines)


def _indented(values: dict[str, Any]) -> str:
    return "\n".join(f"  {key}: {_plain(value)}" for key, value in values.items())


def _data(checkpoint: Any) -> list[str]:
    about = checkpoint.provenance
    if "dataset" not in about:
        return []
    notes, samples = about.get("dataset_notes", {}), about.get("samples", {})
    sizes = ", ".join(f"{n:,} {split}" for split, n in samples.items())
    lines = [
        "## Data",
        "",
        f"{about['dataset']}{' (word-aligned)' if about.get('aligned') else ''}: {sizes or 'sizes not recorded'}; "
        f"dataset.json sha256 {about.get('dataset_sha256', 'not recorded')}; licence {notes.get('licence') or 'not stated'}.",
    ]
    dropped = notes.get("dropped") or {}
    if dropped:
        lines.append(
            "Left out when it was built: " + ", ".join(f"{n:,} {reason}" for reason, n in dropped.items()) + "."
        )
    shares = about.get("modalities")
    if shares:
        lines.append(
            "In training samples: " + ", ".join(f"{SPOKEN[n]} in {share:.1%}" for n, share in shares.items()) + "."
        )
    start = about.get("start")
    if start:
        lines.append(
            f"First weights: {start['name']} (labels {', '.join(start['labels'])}; fingerprint {start['fingerprint'][:16]})."
        )
    return [*lines, ""]


def _features(checkpoint: Any) -> list[str]:
    lines = ["## Features", "", "| | extractor | version | columns | weights sha256 |", "|---|---|---|---|---|"]
    for name in MODALITIES:
        spec = checkpoint.specs[name]
        unread = "" if name in checkpoint.settings.modalities else " (not read)"
        lines.append(
            f"| {name}{unread} | {spec.extractor} | {spec.version} | {spec.dim} | {spec.weights[:16] or '–'} |"
        )
    return [*lines, "", "Features of another kind are refused, with what differs.", ""]


def _results(checkpoint: Any, results: dict[str, Any], split: str) -> list[str]:
    half, tuned, found = results["at_half"], results["at_thresholds"], results["calibration"]
    fitted = "" if split == "test" else ", on which thresholds were tuned: these flatter"
    lines = [
        f"## Results ({split}, {results['samples']:,} samples{fitted})",
        "",
        "| threshold | " + " | ".join(METRICS.values()) + " |",
        "|---|" + "---|" * len(METRICS),
        "| 0.5 | " + " | ".join(f"{half[metric]:.3f}" for metric in METRICS) + " |",
        "| tuned | " + " | ".join(f"{tuned[metric]:.3f}" for metric in METRICS) + " |",
        "",
        f"Expected calibration error {found['ece']:.3f} at temperature {found['temperature']:.2f}. Rare labels: "
        f"class_weights {checkpoint.provenance.get('class_weights', 'not recorded')}.",
        "",
        f"| label | positives in training | in {split} | threshold | precision | recall | F1 |",
        "|---|---|---|---|---|---|---|",
    ]
    trained = checkpoint.provenance.get("positives", {}).get("train", {})
    for name, n in results["positives"].items():
        per = results.get("per_label", {}).get(name, {})
        lines.append(
            f"| {name} | {_count(trained.get(name))} | {n:,} | {results['thresholds'][name]:.3f} | "
            f"{_share(per.get('precision'))} | {_share(per.get('recall'))} | {tuned[f'f1/{name}']:.3f} |"
        )
    return [*lines, ""]


def _hidden(hidden: dict[str, Any] | None) -> list[str]:
    if hidden is None:
        return []
    lines = [
        f"What each modality is worth: {hidden['samples']:,} {hidden['split']} samples that have all, at the tuned thresholds.",
        "",
        "| | " + " | ".join(METRICS.values()) + " |",
        "|---|" + "---|" * len(METRICS),
    ]
    for title, row in hidden["rows"].items():
        lines.append(f"| {title} | " + " | ".join(f"{row[metric]:.3f}" for metric in METRICS) + " |")
    return [*lines, ""]


def _limits(checkpoint: Any, results: dict[str, Any] | None) -> list[str]:
    about, names = checkpoint.provenance, checkpoint.label_set.names
    lines = ["## Known limits", ""]
    trained = about.get("positives", {}).get("train", {})
    rare = [f"{name} ({trained[name]})" for name in names if trained.get(name, FEW) < FEW]
    if rare:
        lines.append(f"- Fewer than {FEW} training samples, results are chance: {', '.join(rare)}.")
    unfitted = checkpoint.metrics.get("calibration", {}).get("thresholds_not_fitted", [])
    if unfitted:
        lines.append(f"- No validation sample, threshold left at 0.5: {', '.join(unfitted)}.")
    if results is not None:
        tuned = results["at_thresholds"]
        weak = [f"{name} {tuned[f'f1/{name}']:.2f}" for name in names if tuned[f"f1/{name}"] < WEAK_F1]
        lines.append(f"- F1 below {WEAK_F1}: {', '.join(weak) or 'none'}.")
        if results["unobserved"]:
            lines.append(f"- {results['unobserved']:,} samples had nothing that it reads; nothing is claimed for them.")
    unread = [name for name in MODALITIES if name not in checkpoint.settings.modalities]
    if unread:
        lines.append(f"- It does not read {_and((SPOKEN[name] for name in unread), 'or')}.")
    unseen = [name for name, share in about.get("modalities", {}).items() if not share and name not in unread]
    if unseen:
        said = _and((SPOKEN[name] for name in unseen), "or")
        lines.append(
            f"- No training sample had {said}: what it makes of them comes from the first weights, unmeasured here."
        )
    averaged = [n for n in checkpoint.settings.modalities if checkpoint.specs[n].version.endswith("-words")]
    if averaged:
        lines.append("- Voice and face are averaged over words: where nobody speaks it says nothing.")
    lines += [
        "- Measured on data like its own; on other cameras, languages and people it is unmeasured.",
        "- It detects expressed emotion as annotators labelled it, not what a person feels: no decisions about people by it.",
        "",
    ]
    return lines


def _and(names: Iterable[str], word: str = "and") -> str:
    listed: Sequence[str] = list(names)
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} {word} {listed[-1]}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
