"""Explanations as data and pictures: figures 2 and 3 of a data set, and what carried the labels of one file.

In: a checkpoint with normalised samples, or a predictor with a media file. Out: PNG with CSV or JSON beside it
(docs/output.md). Times in seconds on the file's clock, attributions in logits (see ``lamb.explain``).

    explain_dataset(checkpoint, samples, Path("figures"))        # encoder_histogram and label_attention, .png and .csv
    explain_file(Path("clip.mp4"), predictor, Path("why"))       # why/clip.mp4.1a2b3c4d.explain.json and .png
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import Sample
from data.clip import Clip, Word
from data.errors import InputError
from data.spec import MODALITIES, Modality
from pipeline.events import Event, Notify, ignore
from pipeline.explain_output import KIND, is_ours, publish_figure
from pipeline.explain_pictures import draw_encoder_histogram, draw_file, draw_label_attention
from pipeline.predict import PROBABILITY_DIGITS, TIME_DIGITS, OutputFolder, Predictor, to_json

SCHEMA = 1
LONGEST_S = 60.0  # of a file in one picture: more cannot be read
BIN_S = 0.1  # of what is told over time
MOMENT_S = 0.5  # length of a moment
N_WORDS = N_MOMENTS = N_COLUMNS = 5


def explain_dataset(checkpoint: Any, samples: Sequence[Sample], folder: Path, batch_size: int = 32) -> list[Path]:
    """Figures 2 and 3 for a checkpoint and already normalised samples, as PNG and CSV; returns what was written.

    Raises InputError: the model has no decoder (no_attention), no sample is observed (no_samples), the folder cannot be
    written, or something that is no result of ours is in the way (output_exists).
    """
    from lamb.attention import encoder_histogram, label_attention

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

    def over_time(self, label: str, attention: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Edges of bins of about a tenth of a second, in seconds (B + 1,), and what text, audio and visual gave to an
        explained label in each, in logits (3, B); or, as a share of 1, how much of it the label attended to."""
        n_bins = max(1, round((self.clip.end_s - self.clip.start_s) / BIN_S))
        edges = np.linspace(self.clip.start_s, self.clip.end_s, n_bins + 1)
        i = self.found.labels.index(label)
        return edges, np.stack([self.found.over_time(name, edges, attention)[i] for name in MODALITIES])


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
    clips = [ready for _, ready in predictor.readable(analysis.clips)]
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
    figure = draw_file(in_picture(utterances, start_s, end_s), columns, path.name, analysis.duration_s, start_s, end_s)
    place.write_text(data, to_json(record) + "\n")
    publish_figure(figure, picture)
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


def in_picture(utterances: Sequence[Explained], start_s: float, end_s: float) -> list[Explained]:
    """Those that reach into the interval; of several faces at a time, the most prominent."""
    inside = [u for u in utterances if u.clip.end_s > start_s and u.clip.start_s < end_s]
    first: dict[float, int] = {}
    for u in inside:
        face = int(u.clip.extra.get("face", "0"))
        first[u.clip.start_s] = min(first.get(u.clip.start_s, face), face)
    return [u for u in inside if int(u.clip.extra.get("face", "0")) <= first[u.clip.start_s]]


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
        "moments": moments(utterance, label),
        "columns": {
            name: [
                {"name": columns[name][k], "attribution": _digits(found.per_column(name)[i, k])}
                for k in _strongest(found.per_column(name)[i], N_COLUMNS)
            ]
            for name in MODALITIES
        },
    }


def moments(utterance: Explained, label: str) -> list[dict[str, Any]]:
    """Half seconds that spoke most for a label, without overlap, strongest first; only such that spoke for it."""
    edges, by_modality = utterance.over_time(label)  # (B + 1,), (3, B)
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


def _strongest(amounts: np.ndarray, n: int) -> list[int]:
    """Indices of the ``n`` largest by size, nothing that is 0."""
    order = np.argsort(-np.abs(amounts), kind="stable")[:n]
    return [int(k) for k in order if amounts[k] != 0]


def _digits(value: Any) -> float:
    return round(float(value), PROBABILITY_DIGITS)
