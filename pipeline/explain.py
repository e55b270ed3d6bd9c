"""Explanations as pictures and data: figures 2 and 3 of a data set, and what carried the labels of one file.

In: a checkpoint with normalised samples, or a predictor with a media file. Out: PNG with CSV or JSON beside it. Times in
seconds on the file's clock, attributions in logits (see ``lamb.explain``).

    explain_dataset(checkpoint, samples, Path("figures"))        # encoder_histogram and label_attention, .png and .csv
    explain_file(Path("clip.mp4"), predictor, Path("why"))       # why/clip.mp4.1a2b3c4d.explain.json and .png
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import Sample
from data.clip import Clip, Word
from data.errors import InputError
from data.spec import MODALITIES, Modality
from pipeline.events import Event, Notify, ignore
from pipeline.predict import PROBABILITY_DIGITS, TIME_DIGITS, OutputFolder, Predictor, publish, to_json

SCHEMA = 1
KIND = "lamb-explanation"
SOFTWARE = "lamb explain"
HISTOGRAM_HEADER = ("label", "encoder", "tokens")
ATTENTION_HEADER = ("head", "label", "attended_label", "weight")
OURS = (SOFTWARE, f'"kind": "{KIND}"', ",".join(HISTOGRAM_HEADER), ",".join(ATTENTION_HEADER))

LONGEST_S = 60.0  # of a file in one picture: more cannot be read
MAX_LABELS = 6  # in one picture
SIDE = 3.0  # inches beside the time axis
WORD_POINTS, LONGEST_WORD = 8, 18
BIN_S = 0.1  # of the curves
MOMENT_S = 0.5  # length of a moment
N_WORDS = N_MOMENTS = N_COLUMNS = 5
COLOURS: dict[Modality, str] = {"text": "#4477aa", "audio": "#ee8833", "visual": "#228855"}
PEOPLE_SAY: dict[Modality, str] = {"text": "words", "audio": "voice", "visual": "face"}
CAPTION = "above 0: for the label, below: against it; pale: label does not hold; words red for, blue against; dots: utterances"
HIGHEST, OTHERS = "#cc3311", "#bbbbbb"


# ---- a data set -----------------------------------------------------------------------------------------------------


def explain_dataset(checkpoint: Any, samples: Sequence[Sample], folder: Path, batch_size: int = 32) -> list[Path]:
    """Figures 2 and 3 for a checkpoint and already normalised samples, as PNG and CSV; returns what was written.

    Raises InputError: the model has no decoder (no_attention), no sample is observed (no_samples), the folder cannot be
    written, or something that is no result of ours is in the way (output_exists).
    """
    from lamb.explain import encoder_histogram, label_attention

    options = {
        "batch_size": batch_size,
        "max_steps": checkpoint.max_steps,
        "truncation": checkpoint.truncation,
    }
    folder = OutputFolder(folder, is_ours).folder
    names = checkpoint.label_set.names
    weights = label_attention(checkpoint.model, samples, **options)
    counts = encoder_histogram(checkpoint.model, samples, **options)
    return [
        *draw_encoder_histogram(counts, names, checkpoint.settings.encoders, folder / "encoder_histogram.png"),
        *draw_label_attention(weights, names, folder / "label_attention.png"),
    ]


def draw_encoder_histogram(
    counts: np.ndarray, labels: Sequence[str], encoders: Sequence[str], output: Path
) -> tuple[Path, Path]:
    """Figure 2: one histogram per label from ``counts`` (c, n_encoders), the highest bar coloured. PNG and CSV."""
    data = output.with_suffix(".csv")
    check_replaceable(output, data)
    n_columns = min(3, len(labels))
    n_rows = -(-len(labels) // n_columns)
    figure = _figure(4.2 * n_columns, 0.4 + 2.6 * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    names = [name.lower() for name in encoders]
    for axis, label, row in zip(axes, labels, counts, strict=False):
        colours = [HIGHEST if n == row.max() and n > 0 else OTHERS for n in row]
        axis.bar(range(len(row)), row, color=colours)
        axis.set_xticks(range(len(row)), names)
        axis.set_title(drawable(label), parse_math=False)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(labels) :]:
        axis.set_visible(False)
    figure.supylabel("tokens among a sample's five most attended", fontsize=9)
    figure.supxlabel("encoder (t text, a voice, v face; queries first)", fontsize=9)
    rows = [(label, name, int(counts[i, k])) for i, label in enumerate(labels) for k, name in enumerate(encoders)]
    _publish(figure, output)
    publish(data, _csv(HISTOGRAM_HEADER, rows))
    return output, data


def draw_label_attention(weights: np.ndarray, labels: Sequence[str], output: Path) -> tuple[Path, Path]:
    """Figure 3: a heatmap of ``weights`` (h, c, c) per head and one of the identity mask. PNG and CSV."""
    data = output.with_suffix(".csv")
    check_replaceable(output, data)
    c = len(labels)
    maps = [*((f"head {i + 1}", matrix) for i, matrix in enumerate(weights)), ("identity", np.eye(c))]
    n_columns = min(3, len(maps))
    n_rows = -(-len(maps) // n_columns)
    size = max(2.6, 0.42 * c)
    figure = _figure(n_columns * size + 2.0, n_rows * (size + 0.2) + 0.8)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    names = [drawable(label) for label in labels]
    largest, image = float(weights.max()), None  # the identity's ones are beyond the scale
    for axis, (name, matrix) in zip(axes.flatten(), maps, strict=False):
        image = axis.imshow(matrix, vmin=0.0, vmax=largest, cmap="magma_r")
        axis.set_title("identity mask" if name == "identity" else name)
        axis.set_xticks(range(c), names, rotation=90, parse_math=False)
        axis.set_yticks(range(c), names, parse_math=False)
        for i, k in np.ndindex(c, c) if c <= 10 else ():
            colour = "white" if matrix[i, k] > 0.6 * largest else "black"
            axis.text(k, i, f"{matrix[i, k]:.2f}".lstrip("0"), ha="center", va="center", fontsize=6, color=colour)
    for axis in axes.flatten()[len(maps) :]:
        axis.set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.7, extend="max", label="attention of a label (row) to a label (column)")
    rows = [
        (name.removeprefix("head "), labels[i], labels[k], f"{matrix[i, k]:.6f}")
        for name, matrix in maps
        for i, k in np.ndindex(c, c)
    ]
    _publish(figure, output)
    publish(data, _csv(ATTENTION_HEADER, rows))
    return output, data


# ---- one file -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """An utterance with its probabilities (all labels), which labels hold, and what carried the explained ones."""

    clip: Clip
    words: tuple[Word, ...]
    probabilities: dict[str, float]
    holds: tuple[str, ...]
    found: Any

    @property
    def shown(self) -> tuple[str, ...]:
        """Labels that hold, else the most probable one."""
        return self.holds or (max(self.probabilities, key=lambda name: self.probabilities[name]),)


def explain_file(
    path: Path,
    predictor: Predictor,
    folder: Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    notify: Notify = ignore,
) -> tuple[Path, Path]:
    """Why a file got its labels: JSON of all utterances and a picture of ``start_s``..``end_s``; returns both paths.

    Raises LambError: the file cannot be read, nothing in it can be labelled (nothing_to_explain), the interval is empty
    or longer than a minute (bad_option), or the folder cannot be written.
    """
    place = OutputFolder(folder, is_ours)
    analysis = predictor.extractors.analyse(path, notify)
    end_s = min(analysis.duration_s, end_s if end_s is not None else start_s + LONGEST_S)
    if not 0 <= start_s < end_s <= start_s + LONGEST_S:
        raise InputError(
            f"Expected an interval within 0..{analysis.duration_s:.1f} s, at most {LONGEST_S:.0f} s long, but got "
            f"{start_s:g}..{end_s:g} s.",
            code="bad_option",
        )
    clips = [clip for clip in analysis.clips if predictor.checkpoint.usable(clip)]
    if not clips:
        reasons = f" ({', '.join(analysis.reasons)})" if analysis.reasons else ""
        raise InputError(
            f"Expected speech or a face in {str(path)!r} but found nothing to label{reasons}.",
            code="nothing_to_explain",
        )
    utterances = explain_clips(predictor.checkpoint, clips, analysis.words, notify, path.name)
    columns = {name: spec.columns for name, spec in predictor.checkpoint.specs.items()}
    record = {
        "schema": SCHEMA,
        "kind": KIND,
        "file": str(path),
        "sha256": analysis.sha256,
        "duration_s": round(analysis.duration_s, TIME_DIGITS),
        "outcome": analysis.outcome,
        "reasons": list(analysis.reasons),
        "checkpoint": predictor.checkpoint_record(),
        "method": {
            "attribution": "integrated gradients of the logit, from each column's training mean, in logits",
            "attention": "label-to-token attention, mean over heads, as a share of 1",
        },
        "utterances": [utterance_record(utterance, columns) for utterance in utterances],
    }
    data = place.place(path, analysis.sha256, ".explain.json")
    picture = place.place(path, analysis.sha256, ".explain.png")
    figure = draw_file(utterances, columns, path.name, analysis.duration_s, start_s, end_s)
    place.write_text(data, to_json(record) + "\n")
    _publish(figure, picture)
    return data, picture


def explain_clips(
    checkpoint: Any, clips: Sequence[Clip], words: Sequence[Word], notify: Notify = ignore, name: str = ""
) -> list[Explained]:
    """Attribute every label that some clip shows, in every clip, so that a label can be followed through a file."""
    from lamb.explain import attribute

    names = checkpoint.label_set.names
    rows = checkpoint.predict(clips)
    held = checkpoint.labels_of(rows)
    shown = {label for row, labels in zip(rows, held, strict=True) for label in labels or [names[int(row.argmax())]]}
    explained = []
    for i, (clip, row, labels) in enumerate(zip(clips, rows, held, strict=True)):
        found = attribute(checkpoint, clip, [label for label in names if label in shown])
        spoken = words_of(clip, words)
        explained.append(Explained(clip, spoken, dict(zip(names, map(float, row), strict=True)), tuple(labels), found))
        notify(Event(name, "lamb", (i + 1) / len(clips), f"{len(clips)} utterances explained"))
    return explained


def words_of(clip: Clip, words: Iterable[Word]) -> tuple[Word, ...]:
    """The words behind the rows of the clip's text track, one per row, found by their times; without text if unknown."""
    track = clip.tracks["text"]
    said = {(word.start_s, word.end_s): word for word in words}
    return tuple(
        said.get((float(start), float(end)), Word("", float(start), float(end)))
        for start, end in zip(track.start_s, track.end_s, strict=True)
    )


def utterance_record(utterance: Explained, columns: dict[Modality, tuple[str, ...]]) -> dict[str, Any]:
    """The JSON of one utterance: for each label it shows, words, moments and columns, strongest first."""
    clip = utterance.clip
    return {
        "start_s": round(clip.start_s, TIME_DIGITS),
        "end_s": round(clip.end_s, TIME_DIGITS),
        **({"face": int(clip.extra["face"])} if "face" in clip.extra else {}),
        "text": clip.text,
        "probabilities": {name: round(p, PROBABILITY_DIGITS) for name, p in utterance.probabilities.items()},
        "labels": [_label_record(utterance, label, columns) for label in utterance.shown],
    }


def _label_record(utterance: Explained, label: str, columns: dict[Modality, tuple[str, ...]]) -> dict[str, Any]:
    found = utterance.found
    i = found.labels.index(label)
    words = []
    for step in _strongest(found.per_step("text")[i], N_WORDS):
        word = utterance.words[found.rows["text"][step]]
        words.append(
            {
                "text": word.text,
                "start_s": round(word.start_s, TIME_DIGITS),
                "end_s": round(word.end_s, TIME_DIGITS),
                "attribution": _digits(found.per_step("text")[i, step]),
                "attention": None if found.attention is None else _digits(found.attention["text"][i, step]),
            }
        )
    attended = None
    if found.attention is not None:
        attended = {name: _digits(found.attention[name][i].sum()) for name in MODALITIES}
    return {
        "label": label,
        "probability": round(utterance.probabilities[label], PROBABILITY_DIGITS),
        "holds": label in utterance.holds,
        "logit": _digits(found.logits[i]),
        "baseline_logit": _digits(found.baseline_logits[i]),
        "completeness_gap": _digits(found.gaps[i]),
        "attribution": dict(zip(MODALITIES, map(_digits, found.per_modality()[i]), strict=True)),
        "attention": attended,
        "words": words,
        "moments": moments(found, i, utterance.clip.start_s, utterance.clip.end_s),
        "columns": {
            name: [
                {"name": columns[name][k], "attribution": _digits(found.per_column(name)[i, k])}
                for k in _strongest(found.per_column(name)[i], N_COLUMNS)
            ]
            for name in MODALITIES
        },
    }


def moments(found: Any, label: int, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """Half seconds that spoke most for a label, without overlap, strongest first; only such that spoke for it."""
    edges = bin_edges(start_s, end_s)
    by_modality = np.stack([found.over_time(name, edges)[label] for name in MODALITIES])  # (3, B)
    n_bins = by_modality.shape[1]
    length = min(n_bins, max(1, round(MOMENT_S / (edges[1] - edges[0]))))
    windows = np.lib.stride_tricks.sliding_window_view(by_modality, length, axis=1).sum(axis=2)  # (3, B − length + 1)
    total, chosen = windows.sum(axis=0), []
    free = np.ones(len(total), dtype=bool)
    while len(chosen) < N_MOMENTS and free.any():
        begin = int(np.where(free, total, -np.inf).argmax())
        if total[begin] <= 0:
            break
        free[max(0, begin - length + 1) : begin + length] = False
        chosen.append(
            {
                "start_s": round(float(edges[begin]), TIME_DIGITS),
                "end_s": round(float(edges[begin + length]), TIME_DIGITS),
                "attribution": _digits(total[begin]),
                "by": dict(zip(MODALITIES, map(_digits, windows[:, begin]), strict=True)),
            }
        )
    return chosen


def bin_edges(start_s: float, end_s: float) -> np.ndarray:
    """Edges of about a tenth of a second over an interval, at least one bin."""
    return np.linspace(start_s, end_s, max(1, round((end_s - start_s) / BIN_S)) + 1)


def _strongest(amounts: np.ndarray, n: int) -> list[int]:
    """Indices of the ``n`` largest by size, nothing that is 0."""
    order = np.argsort(-np.abs(amounts), kind="stable")[:n]
    return [int(k) for k in order if amounts[k] != 0]


def _digits(value: Any) -> float:
    return round(float(value), PROBABILITY_DIGITS)


# ---- the picture ----------------------------------------------------------------------------------------------------


def draw_file(
    utterances: Sequence[Explained],
    columns: dict[Modality, tuple[str, ...]],
    title: str,
    duration_s: float,
    start_s: float,
    end_s: float,
) -> Any:
    """The figure: per label its words, what words, voice and face gave to it per second, where it looked, and columns."""
    inside = [u for u in utterances if u.clip.end_s > start_s and u.clip.start_s < end_s]
    if any("face" in u.clip.extra for u in inside):  # of several faces at a time, the most prominent
        inside = [u for u in inside if u.clip.extra.get("face", "0") == "0" or not _covered(u, inside)]
    best: dict[str, float] = {}
    for utterance in inside:
        for label in utterance.shown:
            best[label] = max(best.get(label, 0.0), utterance.probabilities[label])
    labels = sorted(best, key=lambda label: -best[label])[:MAX_LABELS]
    n_rows = max(1, len(labels))
    width = float(np.clip(6.0 + (end_s - start_s) * 0.5, 11.0, 30.0))
    interval = _Interval(start_s, end_s, width - SIDE, [word for u in inside for word in u.words])
    heights = (0.9 if interval.upright else 0.45, 1.8, 0.45)
    figure = _figure(width, 1.0 + sum(heights) * n_rows)
    axes = figure.subplots(
        3 * n_rows,
        2,
        squeeze=False,
        width_ratios=(width - SIDE, SIDE - 1.0),
        height_ratios=heights * n_rows,
    )
    for axis in axes[1:, 0]:
        axis.sharex(axes[0, 0])
    for i, label in enumerate(labels):
        spoken, curves, looked = axes[3 * i : 3 * i + 3, 0]
        _draw_words(spoken, inside, label, interval)
        _draw_curves(curves, inside, label)
        _draw_attention(looked, inside, label)
        for axis in axes[3 * i : 3 * i + 3, 1]:
            axis.axis("off")
        _draw_columns(axes[3 * i + 1, 1], inside, label, columns)
    for axis in axes[:, 0]:
        for edge_s in {s for u in inside for s in (u.clip.start_s, u.clip.end_s)}:
            axis.axvline(edge_s, color="0.4", linewidth=0.6, linestyle=":")
    axes[-1, 0].set_xlim(start_s, end_s)
    axes[-1, 0].set_xlabel(f"seconds\n{CAPTION}", fontsize=8)
    part = "" if end_s - start_s >= duration_s - 0.05 else f" — {start_s:g} to {end_s:g} s of {duration_s:.1f} s"
    figure.suptitle(f"{drawable(title)}{part}", parse_math=False)
    handles = [_patch(COLOURS[name], PEOPLE_SAY[name]) for name in MODALITIES]
    figure.legend(handles=handles, loc="upper right", ncols=3, frameon=False)
    return figure


class _Interval:
    """The seconds shown on ``inches``, and whether words must stand upright to find room."""

    def __init__(self, start_s: float, end_s: float, inches: float, words: Sequence[Word]) -> None:
        self.start_s, self.end_s = start_s, end_s
        self.letter_s = 0.65 * WORD_POINTS / 72 * (end_s - start_s) / inches
        n_letters = sum(len(word.text) + 1 for word in words if self.holds(word))
        self.upright = n_letters * self.letter_s > 1.2 * (end_s - start_s)  # of two lanes

    def holds(self, word: Word) -> bool:
        return self.start_s <= (word.start_s + word.end_s) / 2 < self.end_s


def _covered(utterance: Explained, others: Sequence[Explained]) -> bool:
    start_s = utterance.clip.start_s
    faces = [int(u.clip.extra.get("face", "0")) for u in others if u.clip.start_s == start_s]
    return int(utterance.clip.extra["face"]) > min(faces)


def _rates(utterance: Explained, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Edges in seconds, and logits per second of text, audio, visual (3, B)."""
    edges = bin_edges(utterance.clip.start_s, utterance.clip.end_s)
    i = utterance.found.labels.index(label)
    rates = np.stack([utterance.found.over_time(name, edges)[i] for name in MODALITIES])
    return edges, rates / np.maximum(np.diff(edges), 1e-6)


def _draw_curves(axis: Any, utterances: Sequence[Explained], label: str) -> None:
    """Stacked, for the label upwards and against it downwards; pale where the label does not hold."""
    limits = {1: 1e-3, -1: 1e-3}
    for u in utterances:
        edges, rates = _rates(u, label)
        alpha = 0.95 if label in u.holds else 0.4
        for sign in (1, -1):
            floor = np.zeros(rates.shape[1])
            for name, rate in zip(MODALITIES, np.maximum(sign * rates, 0), strict=True):
                top = floor + rate
                steps = [np.append(sign * x, sign * x[-1]) for x in (floor, top)]
                axis.fill_between(edges, *steps, step="post", color=COLOURS[name], alpha=alpha, linewidth=0)
                floor = top
            limits[sign] = max(limits[sign], float(floor.max()))
        weight = "bold" if label in u.holds else "normal"
        where = {"xy": ((u.clip.start_s + u.clip.end_s) / 2, 0.97), "xycoords": ("data", "axes fraction")}
        text = f"{u.probabilities[label] * 100:.0f} %"
        axis.annotate(text, **where, ha="center", va="top", fontsize=8, weight=weight, annotation_clip=True)
    axis.axhline(0, color="0.3", linewidth=0.6)
    axis.set_ylim(-1.1 * limits[-1], 1.25 * limits[1])
    axis.set_ylabel("logits / s", fontsize=8)
    axis.tick_params(labelsize=8, labelbottom=False)


def _draw_words(axis: Any, utterances: Sequence[Explained], label: str, interval: _Interval) -> None:
    """Words at their times, red for and blue against the label; of words that would overlap the stronger stays."""
    from matplotlib import colormaps

    axis.set_ylabel(drawable(label), rotation=0, ha="right", va="center", weight="bold", parse_math=False)
    axis.set_yticks([])
    axis.set_ylim(0, 1)
    axis.spines[:].set_visible(False)
    axis.tick_params(axis="x", length=0, labelbottom=False)
    words: list[tuple[Word, float]] = []
    for u in utterances:
        gave = u.found.per_step("text")[u.found.labels.index(label)]
        words += [(u.words[row], float(a)) for row, a in zip(u.found.rows["text"], gave, strict=True)]
    words = [(word, amount) for word, amount in words if word.text and interval.holds(word)]
    largest = max((abs(amount) for _, amount in words), default=0.0) or 1.0
    lanes = (0.5,) if interval.upright else (0.78, 0.22)
    taken: list[tuple[float, float, float]] = []
    for word, amount in sorted(words, key=lambda pair: -abs(pair[1])):
        text = drawable(word.text if len(word.text) <= LONGEST_WORD else word.text[: LONGEST_WORD - 1] + "…")
        middle = (word.start_s + word.end_s) / 2
        half = (2.2 if interval.upright else len(text) + 0.6) * interval.letter_s / 2
        blocked = {y for a, b, y in taken if middle - half < b and middle + half > a}
        lane = next((y for y in lanes if y not in blocked), None)
        if lane is None:
            continue
        taken.append((middle - half, middle + half, lane))
        axis.text(
            middle,
            lane,
            text,
            ha="center",
            va="center",
            fontsize=WORD_POINTS,
            color="white" if abs(amount) > 0.8 * largest else "black",
            rotation=90 if interval.upright else 0,
            parse_math=False,
            clip_on=True,
            bbox={"facecolor": colormaps["RdBu_r"](0.5 + 0.35 * amount / largest), "edgecolor": "none", "pad": 1.0},
        )


def _draw_attention(axis: Any, utterances: Sequence[Explained], label: str) -> None:
    """Three strips: where the label looked, each bin's share of the utterance's largest."""
    for u in utterances:
        if u.found.attention is None:
            continue
        edges = bin_edges(u.clip.start_s, u.clip.end_s)
        i = u.found.labels.index(label)
        looked = np.stack([u.found.over_time(name, edges, attention=True)[i] for name in MODALITIES])
        shares = looked / max(float(looked.max()), 1e-9)
        axis.pcolormesh(edges, np.arange(4), shares, cmap="Greys", vmin=0.0, vmax=1.0, rasterized=True)
    axis.set_ylim(3, 0)
    axis.set_yticks((0.5, 1.5, 2.5), [PEOPLE_SAY[name] for name in MODALITIES], fontsize=6)
    axis.set_ylabel("attention", fontsize=7)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)


def _draw_columns(
    axis: Any, utterances: Sequence[Explained], label: str, columns: dict[Modality, tuple[str, ...]]
) -> None:
    """The strongest columns of voice and face over the utterances that show the label; GloVe's have no meaning."""
    shown = [u for u in utterances if label in u.shown]
    found: list[tuple[float, str, Modality]] = []
    voice_and_face: tuple[Modality, ...] = MODALITIES[1:]
    for name in voice_and_face:
        total = np.sum([u.found.per_column(name)[u.found.labels.index(label)] for u in shown], axis=0)
        found.extend((float(amount), column, name) for amount, column in zip(total, columns[name], strict=True))
    amounts = sorted((row for row in found if row[0]), key=lambda row: -abs(row[0]))[: N_COLUMNS + 1]
    axis.axis("on")
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axis.barh(range(len(amounts)), [a for a, _, _ in amounts], color=[COLOURS[name] for _, _, name in amounts])
    names = [drawable(column) for _, column, _ in amounts]
    axis.set_yticks(range(len(amounts)), names, fontsize=8, parse_math=False)
    axis.set_ylim(N_COLUMNS + 0.6, -0.6)
    axis.axvline(0, color="0.3", linewidth=0.6)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title("columns, logits", fontsize=8, loc="left")


# ---- files ----------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _publish(figure: Any, output: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": SOFTWARE})
    publish(output, picture.getvalue())


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def is_ours(path: Path) -> bool:
    """Whether a file is an earlier result of this module, by its first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return False
    return any(mark.encode() in head for mark in OURS)


def check_replaceable(*outputs: Path) -> None:
    """Raises InputError (output_exists) if something other than an earlier result of ours is there."""
    for output in outputs:
        if os.path.lexists(output) and not is_ours(output):
            raise InputError(
                f"Expected {str(output)!r} to be free but something is there.",
                code="output_exists",
                remedy="Choose another --output.",
            )


@cache
def _known_characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def drawable(text: str) -> str:
    """The text with � for what the font cannot show, and without line breaks."""
    known = _known_characters()
    return "".join(c if c.isprintable() and ord(c) in known else "�" for c in text)
