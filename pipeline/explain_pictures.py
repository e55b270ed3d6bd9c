"""Pictures of explanations: figures 2 and 3 of a data set, and what carried the labels of one file over its time.

In: counts and weights of ``lamb.attention``, or explained utterances. Out: PNG with CSV beside it, or a figure. Times in
seconds on the file's clock, attributions in logits.

    draw_encoder_histogram(counts, labels, encoders, Path("encoder_histogram.png"))        # and .csv
    figure = draw_file(utterances, columns, "clip.mp4", duration_s=19.0, start_s=0.0, end_s=19.0)
    publish_figure(figure, Path("why.png"))
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.clip import Word
from data.spec import MODALITIES, Modality
from pipeline.explain_output import (
    ATTENTION_HEADER,
    HISTOGRAM_HEADER,
    check_replaceable,
    publish_figure,
    publish_table,
)

if TYPE_CHECKING:
    from pipeline.explain import Explained

MAX_LABELS = 6  # in one picture
SIDE = 3.0  # inches beside the time axis
WORD_POINTS, LONGEST_WORD = 8, 18
N_COLUMNS = 6  # beside a label
COLOURS: dict[Modality, str] = {"text": "#4477aa", "audio": "#ee8833", "visual": "#228855"}
PEOPLE_SAY: dict[Modality, str] = {"text": "words", "audio": "voice", "visual": "face"}
CAPTION = "above 0: for the label, below: against it; pale: label does not hold; words red for, blue against; dots: utterances"
HIGHEST, OTHERS = "#cc3311", "#bbbbbb"


# ---- a data set -----------------------------------------------------------------------------------------------------


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
    publish_figure(figure, output)
    publish_table(HISTOGRAM_HEADER, rows, data)
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
    publish_figure(figure, output)
    publish_table(ATTENTION_HEADER, rows, data)
    return output, data


# ---- one file -------------------------------------------------------------------------------------------------------


def draw_file(
    utterances: Sequence[Explained],
    columns: dict[Modality, tuple[str, ...]],
    title: str,
    duration_s: float,
    start_s: float,
    end_s: float,
) -> Any:
    """The figure: per label its words, what words, voice and face gave to it per second, where it looked, and columns."""
    best: dict[str, float] = {}
    for utterance in utterances:
        for label in utterance.shown:
            best[label] = max(best.get(label, 0.0), utterance.probabilities[label])
    labels = sorted(best, key=lambda label: -best[label])[:MAX_LABELS]
    n_rows = max(1, len(labels))
    width = float(np.clip(6.0 + (end_s - start_s) * 0.5, 11.0, 30.0))
    interval = _Interval(start_s, end_s, width - SIDE, [word for u in utterances for word in u.words])
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
        _draw_words(spoken, utterances, label, interval)
        _draw_curves(curves, utterances, label)
        _draw_attention(looked, utterances, label)
        for axis in axes[3 * i : 3 * i + 3, 1]:
            axis.axis("off")
        _draw_columns(axes[3 * i + 1, 1], utterances, label, columns)
    for axis in axes[:, 0]:
        for edge_s in {s for u in utterances for s in (u.clip.start_s, u.clip.end_s)}:
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


def _draw_curves(axis: Any, utterances: Sequence[Explained], label: str) -> None:
    """Stacked, for the label upwards and against it downwards; pale where the label does not hold."""
    limits = {1: 1e-3, -1: 1e-3}
    for u in utterances:
        edges, amounts = u.over_time(label)
        rates = amounts / np.maximum(np.diff(edges), 1e-6)
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
        edges, looked = u.over_time(label, attention=True)
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
    amounts = sorted((row for row in found if row[0]), key=lambda row: -abs(row[0]))[:N_COLUMNS]
    axis.axis("on")
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axis.barh(range(len(amounts)), [a for a, _, _ in amounts], color=[COLOURS[name] for _, _, name in amounts])
    names = [drawable(column) for _, column, _ in amounts]
    axis.set_yticks(range(len(amounts)), names, fontsize=8, parse_math=False)
    axis.set_ylim(N_COLUMNS - 0.4, -0.6)
    axis.axvline(0, color="0.3", linewidth=0.6)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title("columns, logits", fontsize=8, loc="left")


# ---- figures and letters --------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


@cache
def _known_characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def drawable(text: str) -> str:
    """The text with � for what the font cannot show, and without line breaks."""
    known = _known_characters()
    return "".join(c if c.isprintable() and ord(c) in known else "�" for c in text)
