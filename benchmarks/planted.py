"""Table 2's logic on data whose labels are planted: what each part of the model is there for, in minutes on one CPU thread.

    python -m benchmarks.planted [--quick] [--seeds 3] [--steps 650] [--rows full "only unimodal"] [--dims 300 74 35]

Events of two roles lie at random steps of three modalities; each shows one of ``N_CODES`` codes. A label holds where the
same code appears in two groups of ``N_EVENTS`` events, of

    T, A, V      the two roles of one modality      (one modality, across time: self-attention, eq. 3)
    TA, TV, AV   the first roles of two modalities  (a pair, across time: cross-modal attention, eq. 4)

Each group alone is a uniform set of codes whether the label holds or not, so a group by itself says nothing. A sample poses
one of the six questions (the groups it has); a label is known, learned from and scored on its own question only, where it
holds in half of the samples: average precision by chance is .5. The seventh, "rare", holds where T holds and a mark stands
in the audio, which a quarter of the T questions have; it shares its evidence with T and is scored on marked ones. Training
samples have one to ``N_EVENTS`` events a group, test samples all of them: few events are easy, and lead to many.

The exit status is 1 where the full model does not beat an ablation by ``MARGIN`` on every label that the ablation should
lose. Two ablations are shown but not judged. "w/o label correlations": with one decoder layer label-to-label attention never
sees the input, so that a label's own embedding can take its place; nothing can be lost by construction. "w/o label
embeddings": the classifier then has a row per label, which does their work.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import platform
import sys
import time
from dataclasses import dataclass
from datetime import date

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.batches import Batch
from data.spec import MODALITIES, Modality
from lamb.metrics import average_precision
from lamb.model import LAMB
from lamb.settings import TABLE2, UNIMODAL, ModelSettings, ablation

QUESTIONS = ("T", "A", "V", "TA", "TV", "AV")
LABELS = (*QUESTIONS, "rare")
N_CODES, N_EVENTS, CODE_WIDTH = 12, 3, 6
MOST_PADDING = 1  # steps without an event in each modality
AMPLITUDE, NOISE = 6.0, 0.1
MARKED = 0.25
N_TEST = 3000
MARGIN = 0.15  # of average precision, mean over seeds
QUICK_ROWS = ("full", "only unimodal", "only audio-text", "only text")
QUICK_QUESTIONS = ("TA",)
UNJUDGED = {
    "w/o label correlations": "one decoder layer's label attention never sees the input",
    "w/o label embeddings": "the classifier then has a row per label, which does their work",
}


def expected_losses(row: str) -> tuple[str, ...]:
    """The labels that an ablation should lose: those whose pair of event groups no encoder of its compares."""
    if row == "full" or row in UNJUDGED:
        return ()
    encoders = TABLE2[row].get("encoders")
    if encoders is None:  # w/o decoder: the first step's token has seen no pair but its own
        return QUESTIONS
    compared = {"".join(sorted(name, key=UNIMODAL.index)) for name in encoders}
    return tuple(label for label in QUESTIONS if label not in compared)


@dataclass(frozen=True, eq=False)
class World:
    """What codes, roles and the mark look like: ``codes`` (K, r), and per modality orthonormal columns (d, r + 3)."""

    codes: np.ndarray
    looks: tuple[np.ndarray, ...]
    dims: tuple[int, int, int]

    @classmethod
    def make(cls, dims: tuple[int, int, int], seed: int = 0) -> World:
        rng = np.random.default_rng(seed)
        codes = rng.normal(size=(N_CODES, CODE_WIDTH))
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        looks = tuple(np.linalg.qr(rng.normal(size=(dim, CODE_WIDTH + 3)))[0] for dim in dims)
        return cls(codes, looks, dims)


@dataclass(frozen=True, eq=False)
class Planted:
    """Samples of a world, with what was planted.

    ``known`` float32 (N, 7): 1 where the sample asks for the label; ``question`` (N,); ``groups`` (N, 2, s) of codes;
    ``marked`` (N,).
    """

    batch: Batch
    known: Tensor
    question: np.ndarray
    groups: np.ndarray
    marked: np.ndarray


def draw(
    n: int,
    world: World,
    rng: np.random.Generator,
    least_events: int = N_EVENTS,
    questions: tuple[str, ...] = QUESTIONS,
) -> Planted:
    """``n`` samples with labels (n, 7) that ask some ``questions``, of ``least_events`` to ``N_EVENTS`` events a group."""
    question = rng.choice([QUESTIONS.index(label) for label in questions], size=n)
    holds = rng.random(n) < 0.5
    order = rng.random((n, N_CODES)).argsort(axis=1)
    groups = np.stack([order[:, :N_EVENTS], order[:, N_EVENTS : 2 * N_EVENTS]], axis=1)  # no code in common
    groups[holds, 1, 0] = groups[holds, 0, 0]
    n_events = rng.integers(least_events, N_EVENTS + 1, size=n)
    marked = (question == 0) & (rng.random(n) < MARKED)

    values: dict[Modality, Tensor] = {}
    masks: dict[Modality, Tensor] = {}
    for m, (name, letter) in enumerate(zip(MODALITIES, UNIMODAL, strict=True)):
        # (n, 2s + 1 + padding, r + 3): events of role 0, of role 1, the mark, nothing
        row = np.zeros((n, 2 * N_EVENTS + 1 + MOST_PADDING, CODE_WIDTH + 3))
        there = np.zeros(row.shape[:2], dtype=bool)
        there[:, -MOST_PADDING:] = np.arange(MOST_PADDING) < rng.integers(MOST_PADDING + 1, size=n)[:, None]
        for j, label in enumerate(QUESTIONS):
            asked = question == j
            for group, (owner, role) in enumerate(((label[0], 0), (label[-1], int(len(label) == 1)))):
                if owner == letter:
                    place = slice(role * N_EVENTS, (role + 1) * N_EVENTS)
                    there[asked, place] = np.arange(N_EVENTS) < n_events[asked, None]
                    row[asked, place, :CODE_WIDTH] = world.codes[groups[asked, group]]
                    row[asked, place, CODE_WIDTH + role] = 1
        if letter == "A":
            there[marked, 2 * N_EVENTS] = True
            row[marked, 2 * N_EVENTS, -1] = 1
        mixed = rng.random(there.shape).argsort(axis=1)
        there = np.take_along_axis(there, mixed, axis=1)
        rows = np.take_along_axis(row, mixed[..., None], axis=1)[there] @ world.looks[m].T * AMPLITUDE
        x = np.zeros((*there.shape, rows.shape[1]), dtype=np.float32)
        x[there] = rows + NOISE * rng.standard_normal(rows.shape, dtype=np.float32)
        values[name], masks[name] = torch.from_numpy(x), torch.from_numpy(there)
    labels = np.zeros((n, len(LABELS)), dtype=np.float32)
    labels[np.arange(n), question] = holds
    labels[:, -1] = holds & marked
    known = np.zeros_like(labels)
    known[np.arange(n), question] = 1
    known[:, -1] = question == 0
    return Planted(Batch(values, masks, torch.from_numpy(labels)), torch.from_numpy(known), question, groups, marked)


def scores(model: nn.Module, test: Planted) -> dict[str, float]:
    """Average precision of each label on its own question."""
    model.eval()
    with torch.no_grad():
        probabilities = model(test.batch).sigmoid().numpy()
    assert test.batch.labels is not None
    truth = test.batch.labels.numpy().astype(int)
    found = {}
    for j, label in enumerate(LABELS):
        if (label != "rare" and j not in test.question) or (label == "rare" and not test.marked.any()):
            continue
        asked = test.marked if label == "rare" else test.question == j
        found[label] = float(average_precision(truth[asked, j : j + 1], probabilities[asked, j : j + 1])[0])
    return found


def train(
    row: str,
    world: World,
    seed: int,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    questions: tuple[str, ...] = QUESTIONS,
) -> LAMB:
    """A row of Table 2, the paper's sizes, on samples that are never seen twice; Adam, clipped, rate falling to 0."""
    torch.manual_seed(seed)
    model = LAMB(ablation(row, ModelSettings(dims=world.dims, n_labels=len(LABELS), dropout=0.0))).train()
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    rng = np.random.default_rng([seed, 1])
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 30, 2 * (1 - step / n_steps))
        planted = draw(batch_size, world, rng, least_events=1, questions=questions)
        assert planted.batch.labels is not None
        loss = functional.binary_cross_entropy_with_logits(  # eq. 8 over the labels that are known
            model(planted.batch), planted.batch.labels, weight=planted.known, reduction="sum"
        )
        loss = loss / batch_size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.8)
        optimizer.step()
    return model


Results = dict[str, list[dict[str, float]]]


def table(results: Results) -> list[str]:
    """Markdown: rows of Table 2, mean ± standard deviation over seeds, best in bold."""
    labels = list(results["full"][0])
    means = {row: {label: np.mean([one[label] for one in runs]) for label in labels} for row, runs in results.items()}
    best = {label: max(round(float(means[row][label]), 2) for row in results) for label in labels}
    lines = ["| | " + " | ".join(labels) + " |", "|---|" + "---|" * len(labels)]
    for row, runs in results.items():
        cells = []
        for label in labels:
            text = f"{means[row][label]:.2f}"
            text = f"**{text}**" if round(float(means[row][label]), 2) == best[label] else text
            cells.append(f"{text} ± {np.std([one[label] for one in runs]):.2f}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def verdicts(results: Results) -> tuple[list[str], bool]:
    """One line per ablation, and whether the logic holds."""
    lines, good = [], True
    full = {label: float(np.mean([one[label] for one in results["full"]])) for label in results["full"][0]}
    for row, runs in results.items():
        if row == "full":
            continue
        margins = {label: full[label] - float(np.mean([one[label] for one in runs])) for label in full}
        losses = [label for label in expected_losses(row) if label in full]
        if not losses:
            mean = float(np.mean(list(margins.values())))
            why = UNJUDGED.get(row, "it should lose nothing of this")
            lines.append(f"- {row}: not judged ({why}); full is ahead by {mean:+.2f} on average")
            continue
        least = min(losses, key=lambda label: margins[label])
        held = margins[least] >= MARGIN
        good &= held
        lines.append(
            f"- {row}: {'holds' if held else 'FAILS'}; should lose {' '.join(losses)}; full is ahead by "
            f"{np.mean([margins[label] for label in losses]):+.2f} there, by {margins[least]:+.2f} at least ({least})"
        )
    return lines, good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--quick", action="store_true", help="seconds: the TA question alone, four rows, one seed, few columns"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=650)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--dims", type=int, nargs=3, default=[300, 74, 35])
    parser.add_argument("--rows", nargs="*", choices=list(TABLE2), help="rows of Table 2; full is always run")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = ["full", *(row for row in chosen.rows or TABLE2 if row != "full")]
    questions = QUESTIONS
    if chosen.quick:
        rows, questions, chosen.seeds = list(QUICK_ROWS), QUICK_QUESTIONS, 1
        chosen.steps, chosen.batch_size, chosen.dims = min(chosen.steps, 150), min(chosen.batch_size, 96), [12, 12, 12]
    text, audio, visual = chosen.dims
    world = World.make((text, audio, visual))
    test = draw(N_TEST, world, np.random.default_rng(12345), questions=questions)

    print(f"{date.today()}, {platform.system()} {platform.machine()}, torch {torch.__version__}, one thread")
    print(
        f"{text}/{audio}/{visual} columns, {chosen.steps} steps of {chosen.batch_size} new samples, learning rate "
        f"{chosen.learning_rate:g}, {chosen.seeds} seeds; average precision on {N_TEST} samples, chance .5"
    )
    begin_s = time.process_time()
    results: Results = {row: [] for row in rows}
    for row in rows:
        for seed in range(chosen.seeds):
            model = train(row, world, seed, chosen.steps, chosen.batch_size, chosen.learning_rate, questions)
            results[row].append(scores(model, test))
            done = " ".join(f"{label} {value:.2f}" for label, value in results[row][-1].items())
            print(f"{row}, seed {seed}: {done} ({time.process_time() - begin_s:.0f} s CPU so far)", file=sys.stderr)
    lines, good = verdicts(results)
    print("\n" + "\n".join([*table(results), "", *lines]))
    verdict = "Table 2’s logic holds" if good else "Table 2’s logic does NOT hold"
    print(f"\n{verdict}; {time.process_time() - begin_s:.0f} s CPU")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
