"""Text-only LAMB on GoEmotions, six emotions and neutral: macro-F1 over the seven labels on the published test split.

    python -m benchmarks.goemotions_text --data ../shared/data/goemotions --rows paper wide --seeds 0 1 2

Neutral is a seventh trained label, true wherever the file gives it, alone or beside an emotion. Thresholds are tuned per
label on the dev split, and the epoch is picked there too; the test split is read once per finished model. Vectors are the
packaged 50-d GloVe. Prints a line per seed, the mean and standard deviation, and the seeds' mean probabilities as one model.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

from data.batches import Batch, Sample
from data.labels import LabelSet
from data.spec import MODALITIES, Modality
from extractors.embedding import EmbeddingSettings, WordVectors
from extractors.word_forms import entries, normalise, spoken_words
from lamb.metrics import f1_per_label, tune_thresholds
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, fit, predict_logits

SPLITS = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
EMOTICON = re.compile(r"[:;=8xX]['-]?[)(DdPpOo/\\|3\]\[*]+|<3|\^\^|\._\.|[)(][:;=]")
PUNCTUATION = re.compile(r"(\?+!+\??|!+|\?+|\.\.+|[.,;:\"()&*>^])")
SKIN_TONES, BRAILLE = range(0x1F3FB, 0x1F400), range(0x2800, 0x2900)
DULL = {"with", "of", "sign", "black", "white", "symbol", "face", "faced"}  # of emoji names
EMOJI_WORDS = 3

TRAINING = TrainSettings(
    batch_size=128, label_smoothing=0.0, plateau_patience=1, plateau_factor=0.3, select_by="mean_average_precision"
)


@dataclass(frozen=True)
class Row:
    """What a row changes in the model and in the training; ``hidden_words`` is the mean share, see :func:`hide_words`."""

    model: dict[str, int | float]
    training: dict[str, int | float]
    hidden_words: float = 0.0


ROWS = {
    "paper": Row(  # the paper's width
        {"width": 30, "heads": 5, "ff_hidden": 120, "dropout": 0.0},
        {"epochs": 5, "learning_rate": 4e-3, "ema_decay": 0.998},
    ),
    "wide": Row(
        {"width": 64, "heads": 4, "ff_hidden": 256, "dropout": 0.0},
        {"epochs": 4, "learning_rate": 3e-3, "ema_decay": 0.995},
        hidden_words=0.1,
    ),
}


@dataclass(frozen=True)
class Prepared:
    """Normalised samples and truth (N, 7) per split; label names in the file's order; columns of a word."""

    names: tuple[str, ...]
    rows: dict[str, list[Sample]]
    truth: dict[str, np.ndarray]
    dim: int


def read(path: Path, labels: LabelSet, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Comments of a split and their labels [shape=(N, 7)]; ``data.sources`` drops neutral beside an emotion."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").strip("\n").split("\n")]
    truth = np.stack([labels.encode(names[int(i)] for i in ids.split(",")) for _, ids, _ in rows])
    return [text for text, _, _ in rows], truth


def written_words(text: str, vocabulary: dict[str, int]) -> list[str]:
    """A comment as rows for a reader's eye: words, each part of a contraction, punctuation, emoticons, names of emoji.

    The product's ``tokens_track`` leaves out what a recogniser would never give; in comments it carries the mood.
    """
    words: list[str] = []
    for piece in _with_emoji_names(normalise(text)).split():
        if EMOTICON.fullmatch(piece):
            plain = piece.lower().replace("-", "").replace("=", ":")
            plain = "love" if plain == "<3" else plain
            words.append(plain if plain in vocabulary else plain[:2])
            continue
        for part in filter(None, PUNCTUATION.split(piece)):
            words += spoken_words(part) if any(letter.isalnum() for letter in part) else [part[:3]]
    return [entry for word in words for entry in entries(word, vocabulary) or [word]]


def _with_emoji_names(text: str) -> str:
    def name(letter: str) -> str:
        symbol = unicodedata.category(letter) in ("So", "Sk") and ord(letter) > 0x2100
        if not symbol or ord(letter) in SKIN_TONES or ord(letter) in BRAILLE:
            return letter
        words = unicodedata.name(letter, "").lower().replace("-", " ").split()
        return f" {' '.join([word for word in words if word not in DULL][:EMOJI_WORDS])} "

    return "".join(map(name, text))


def samples(texts: list[str], truth: np.ndarray, vectors: WordVectors) -> list[Sample]:
    """One sample per comment, text only; a comment without any known word keeps no valid step."""
    rows: dict[str, np.ndarray | None] = {}
    found = []
    for text, labels in zip(texts, truth, strict=True):
        words = written_words(text, vectors.index)
        for word in words:
            if word not in rows:
                rows[word] = vectors.vector(word)
        known = [row for word in words if (row := rows[word]) is not None]
        values: dict[Modality, np.ndarray] = {name: np.zeros((0, 1), np.float32) for name in MODALITIES}
        values["text"] = np.stack(known) if known else np.zeros((0, vectors.dim), np.float32)
        valid: dict[Modality, np.ndarray] = {name: np.ones(len(array), bool) for name, array in values.items()}
        found.append(Sample(values, valid, labels))
    return found


def hide_words(share: float) -> Callable[[Batch, torch.Generator], Batch]:
    """An ``augment`` that hides each word with a probability drawn from 0 to ``2 * share`` per comment, never all."""

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        if not share:
            return batch
        mask = batch.masks["text"]
        limit = 2 * share * torch.rand(len(batch), 1, generator=generator, device=generator.device)
        kept = mask & (torch.rand(mask.shape, generator=generator, device=generator.device) >= limit)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, mask)
        return Batch(batch.values, {**batch.masks, "text": kept}, batch.labels, batch.weights)

    return augment


def probabilities(model: LAMB, rows: list[Sample], training: TrainSettings) -> np.ndarray:
    """(N, 7); 0 for a comment without any known word, so that it stays in the count."""
    found = np.zeros((len(rows), model.settings.n_labels), np.float32)
    observed = [i for i, row in enumerate(rows) if row.presence[0]]
    logits = predict_logits(model, [rows[i] for i in observed], training)
    found[observed] = torch.from_numpy(logits).sigmoid().numpy()
    return found


def macro_f1(
    valid: np.ndarray, valid_truth: np.ndarray, test: np.ndarray, test_truth: np.ndarray
) -> tuple[float, np.ndarray]:
    """Macro-F1 on the valid split that thresholds are tuned on, and F1 per label (7,) on the test split."""
    thresholds = tune_thresholds(valid, valid_truth)
    own = f1_per_label(valid_truth, valid >= thresholds).mean()
    return float(own), f1_per_label(test_truth, test >= thresholds)


def prepare(folder: Path) -> Prepared:
    """Read the three splits, look up every word once, normalise by the training split."""
    names = tuple((folder / "labels.txt").read_text(encoding="utf-8").split())
    vectors = WordVectors.open(EmbeddingSettings())
    raw, truth = {}, {}
    for split, file in SPLITS.items():
        texts, truth[split] = read(folder / file, LabelSet(names), names)
        raw[split] = samples(texts, truth[split], vectors)
    normalization = Normalization.measure(raw["train"])
    rows = {split: [normalization.apply_to(sample) for sample in found] for split, found in raw.items()}
    return Prepared(names, rows, truth, vectors.dim)


def measure(name: str, seeds: list[int], data: Prepared) -> None:
    """Train one row with each seed and print its results."""
    row, n_labels = ROWS[name], len(data.names)
    train, watched = ([sample for sample in data.rows[split] if sample.presence[0]] for split in ("train", "valid"))
    own, scores, seen = [], [], []
    for seed in seeds:
        torch.manual_seed(seed)
        fixed = {"dims": (data.dim, 1, 1), "n_labels": n_labels, "encoders": ("T",), "decoder": "residual"}
        model = LAMB(ModelSettings.parse({**fixed, **row.model}))
        training = TrainSettings.parse({**TRAINING.model_dump(), **row.training, "seed": seed})
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        result = fit(model, train, watched, training, data.names, augment=hide_words(row.hidden_words))
        epochs = len(result.history)
        wall_s, cpu_s = (time.perf_counter() - started_s) / epochs, (time.process_time() - started_cpu_s) / epochs
        model.load_state_dict(result.best_state)
        found = [probabilities(model, data.rows[split], training) for split in ("valid", "test")]
        valid_f1, test_f1 = macro_f1(found[0], data.truth["valid"], found[1], data.truth["test"])
        own.append(valid_f1)
        scores.append(test_f1)
        seen.append(found)
        print(
            f"{name:6} seed {seed}: test {test_f1.mean():.4f}  dev {valid_f1:.4f}  epoch {result.best_epoch} of {epochs}, "
            f"{wall_s:.0f} s ({cpu_s:.0f} s of CPU) an epoch, {model.n_parameters():,} parameters",
            flush=True,
        )
    means = np.mean(scores, axis=1)
    per_label = ", ".join(f"{label} {f1:.3f}" for label, f1 in zip(data.names, np.mean(scores, axis=0), strict=True))
    spread = f"test {means.mean():.4f} ± {means.std():.4f}  dev {np.mean(own):.4f} ± {np.std(own):.4f}"
    print(f"{name:6} mean of {len(means)}: {spread}")
    print(f"{name:6} test F1: {per_label}")
    valid, test = (np.mean([found[i] for found in seen], axis=0) for i in (0, 1))
    valid_f1, test_f1 = macro_f1(valid, data.truth["valid"], test, data.truth["test"])
    print(f"{name:6} all seeds as one: test {test_f1.mean():.4f}  dev {valid_f1:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv, dev.tsv, test.tsv, labels.txt")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    data = prepare(arguments.data)
    support = ", ".join(f"{name} {int(n)}" for name, n in zip(data.names, data.truth["test"].sum(axis=0), strict=True))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {date.today()}")
    print(f"test: {len(data.rows['test'])} comments; {support}", flush=True)
    for name in arguments.rows:
        measure(name, arguments.seeds, data)


if __name__ == "__main__":
    main()
