"""Train the small creak networks on recorded pairs of audio and reference posterior, split by actor.

In: ``DATA/covarep/ravdess_creak.npz`` (74 reference columns per clip) and ``DATA/ravdess/<clip>.flac``; the recordings
``DATA/covarep/<name>/`` are only tested on.
Out: ``creak.safetensors`` (a network of two hidden layers per seed), ``creak_compat.safetensors`` (others of ``compat`` alone,
for rows before and after digital silence) and ``creak.json`` (origin, scores).

    python -m extractors.acoustic.train_creak --data ../shared/data --output extractors/acoustic
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from extractors.acoustic.creak import (
    AFTER_SILENCE,
    AFTER_SILENCE_SHARE,
    BEFORE_SILENCE,
    BEFORE_SILENCE_SHARE,
    CARD,
    COMPAT_FEATURES,
    COMPAT_WEIGHTS,
    CONTOURS,
    FRAME_FEATURES,
    RESIDUAL,
    WEIGHTS,
    Networks,
    compat_inputs,
    compat_posterior,
    creak_features,
    half_a_hop_before,
    missing_rows,
    network_inputs,
    scaled,
    spoilt_rows,
    windows,
)
from extractors.acoustic.frames import HOP_S, output_instants, to_instants
from extractors.acoustic.pitch import srh_pitch
from extractors.acoustic.polarity import speech_polarity
from extractors.weights import sha256_file

CREAK_COLUMN = 10
HELD_OUT_ACTORS = ("16", "17", "18", "19")
FOLDS = (
    ("01", "02", "03", "04"),
    ("05", "06", "07", "08"),
    ("09", "10", "11", "12"),
    ("13", "14", "15"),
    HELD_OUT_ACTORS,
)
SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Recipe:
    """How networks are trained."""

    hidden: int
    dropout: float
    batch: int
    rate: float
    epochs: int


RECIPE = Recipe(hidden=96, dropout=0.1, batch=2048, rate=4e-3, epochs=20)
COMPAT_RECIPE = Recipe(hidden=128, dropout=0.2, batch=1024, rate=6e-3, epochs=40)


@dataclass(frozen=True)
class Pair:
    """One clip: inputs of the networks (M, d), of those of ``compat`` before and after digital silence (M, e), (M, f), rows
    in or after it and rows without value (M,); the reference's column (T,) at instants (s)."""

    rows: np.ndarray
    before_silence: np.ndarray
    after_silence: np.ndarray
    spoilt: np.ndarray
    missing: np.ndarray
    posterior: np.ndarray
    time_s: np.ndarray
    instants_s: np.ndarray


def clip_pair(path: Path, column: np.ndarray) -> Pair:
    """Network inputs of one recording beside the reference's column."""
    import soundfile

    samples, rate_hz = soundfile.read(path, dtype="float64", always_2d=True)
    signal = np.ascontiguousarray(samples[:, 0])
    signal *= speech_polarity(signal, rate_hz)
    pitch = srh_pitch(signal, rate_hz, "compat")
    time_s, features = creak_features(signal, rate_hz, pitch, "compat")
    instants_s = output_instants(len(signal), rate_hz, "compat")[: len(column)] / rate_hz
    duration_s = len(signal) / rate_hz
    missing = missing_rows(features, duration_s)
    rows = network_inputs(features, duration_s, "compat")
    before, after = compat_inputs(features, duration_s)
    posterior = column.astype(np.float64)
    return Pair(rows, before, after, spoilt_rows(features), missing, posterior, time_s, instants_s)


def clip_pairs(data: Path) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Name → pair of the acted clips, and of the recordings."""
    with np.load(data / "covarep" / "ravdess_creak.npz") as reference:
        clips = {
            name: clip_pair(data / "ravdess" / f"{name}.flac", reference[name][:, CREAK_COLUMN])
            for name in reference.files
        }
    folders = sorted(path.parent for path in (data / "covarep").glob("*/covarep.npy"))
    recordings = {
        folder.name: clip_pair(folder / f"{folder.name}.wav", np.load(folder / "covarep.npy")[:, CREAK_COLUMN])
        for folder in folders
    }
    return clips, recordings


class Network(nn.Module):
    """The network of :func:`extractors.acoustic.creak.run_network`, with dropout."""

    def __init__(self, n_inputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.entry = nn.Linear(n_inputs, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.exit = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Windows of scaled rows (B, d) → posterior (B,)."""
        hidden = torch.tanh(self.entry(inputs))
        hidden = torch.tanh(self.middle(self.dropout(hidden)))
        return torch.sigmoid(self.exit(hidden))[:, 0]


def _loss(estimate: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between two posteriors (B,), and a tenth of the square of their logarithms' difference: most
    speech does not creak, and low posteriors count there."""
    estimate, wanted = estimate.clamp(1e-6, 1 - 1e-6), wanted.clamp(1e-6, 1 - 1e-6)
    ratio = torch.log(estimate + 0.002) - torch.log(wanted + 0.002)
    return functional.binary_cross_entropy(estimate, wanted) + 0.1 * (ratio**2).mean()


def _speaks(pair: Pair, kind: str) -> np.ndarray:
    """Rows that a kind of network (``rows``: that of both modes) is used in, (M,) bool."""
    return {"rows": np.ones(len(pair.spoilt), bool), "before_silence": ~pair.spoilt, "after_silence": pair.spoilt}[kind]


def fit(pairs: dict[str, Pair], names: list[str], seed: int, kind: str = "rows") -> dict[str, np.ndarray]:
    """Network and input scale from the training clips: AdamW on rows drawn from all of them.

    Row r of the reference is the mean of the posteriors at feature times r − 1 and r; 0 there stands for NaN. ``kind`` names
    the inputs in :class:`Pair`; those of ``compat`` learn from clips that end with rows they speak in.
    """
    recipe = RECIPE if kind == "rows" else COMPAT_RECIPE
    names = [name for name in names if _speaks(pairs[name], kind)[-1]]
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    rows = {name: getattr(pairs[name], kind) for name in names}
    stacked = np.concatenate(list(rows.values()))
    scale = {"mean": stacked.mean(axis=0), "scale": stacked.std(axis=0) + 1e-3}
    wanted, known = [], []
    for name in names:
        pair = pairs[name]
        column = np.zeros(len(pair.missing))
        n = min(len(column), len(pair.posterior))
        column[:n] = pair.posterior[:n]
        wanted.append(column)
        speaks = _speaks(pair, kind)
        known.append((column > 0) & ~pair.missing & speaks & np.append(False, speaks[:-1]))
    inputs = torch.tensor(np.concatenate([windows(scaled(rows[name], scale)) for name in names]))
    column = torch.tensor(np.concatenate(wanted), dtype=torch.float32)
    chosen_from = np.flatnonzero(np.concatenate(known))
    network = Network(inputs.shape[1], recipe.hidden, recipe.dropout)
    steps = len(chosen_from) // recipe.batch
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=recipe.epochs * steps)
    network.train()
    for _ in range(recipe.epochs):
        for batch in np.split(generator.permutation(chosen_from)[: steps * recipe.batch], steps):
            chosen = torch.tensor(batch)
            loss = _loss((network(inputs[chosen]) + network(inputs[chosen - 1])) / 2, column[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    weights = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
    return {name: value.astype(np.float32) for name, value in scale.items()} | weights


def estimate(pair: Pair, networks: Networks) -> np.ndarray:
    """Our column at the reference's instants, (T,)."""
    posterior = compat_posterior(pair.rows, pair.spoilt, pair.before_silence, pair.after_silence, networks)
    posterior = half_a_hop_before(posterior)
    posterior[pair.missing] = np.nan
    return to_instants(np.round(pair.time_s - HOP_S / 2, 9), posterior, np.round(pair.instants_s, 9))


def _r(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.corrcoef(mine, theirs)[0, 1])


def correlations(pairs: dict[str, Pair], names: list[str], networks: Networks) -> dict[str, float]:
    """Correlation with the reference per clip."""
    return {name: _r(estimate(pairs[name], networks), pairs[name].posterior) for name in names}


def scores(pairs: dict[str, Pair], names: list[str], networks: Networks) -> dict:
    """Correlation with the reference per clip (median, quartile) and over all rows, and the mean absolute error."""
    mine = {name: estimate(pairs[name], networks) for name in names}
    ours, theirs = np.concatenate(list(mine.values())), np.concatenate([pairs[name].posterior for name in names])
    return {
        **_summary({name: _r(mine[name], pairs[name].posterior) for name in names}),
        "r_all_rows": round(_r(ours, theirs), 4),
        "mean_absolute_error": round(float(np.mean(np.abs(ours - theirs))), 5),
    }


def _summary(found: dict[str, float]) -> dict:
    r = list(found.values())
    return {
        "clips": len(r),
        "median_r": round(float(np.median(r)), 4),
        "lower_quartile_r": round(float(np.percentile(r, 25)), 4),
        "mean_r": round(float(np.mean(r)), 4),
    }


def _of(names: Iterable[str], actors: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.rsplit("-", 1)[1] in actors]


def train_networks(pairs: dict[str, Pair], names: list[str]) -> Networks:
    """One network of each kind per seed."""

    def per_seed(kind: str, start: str = "") -> dict[str, np.ndarray]:
        fitted = {seed: fit(pairs, names, seed, kind) for seed in SEEDS}
        return {f"{start}{seed}.{name}": value for seed, weights in fitted.items() for name, value in weights.items()}

    compat = per_seed("before_silence", "before_silence.") | per_seed("after_silence", "after_silence.")
    return Networks(per_seed("rows"), compat)


def main() -> None:
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    clips, recordings = clip_pairs(arguments.data)
    left_out, found = {}, {}
    for actors in FOLDS:
        names, group = _of(clips, actors), f"{actors[0]}-{actors[-1]}"
        training = [name for name in clips if name not in names]
        networks = train_networks(clips, training)  # the last ones, without the held-out actors, are shipped
        one = correlations(clips, names, networks)
        left_out[group] = _summary(one)
        found |= one
        print(f"Left out {group}: {left_out[group]}", flush=True)
    paths = [arguments.output / name for name in (WEIGHTS.name, COMPAT_WEIGHTS.name)]
    for path, weights in zip(paths, (networks.always, networks.compat), strict=True):
        save_file(weights, path)
        path.chmod(0o644)
    held_out = _of(clips, HELD_OUT_ACTORS)
    spoilt = [name for name in held_out if clips[name].spoilt[-1]]
    whole = [name for name in held_out if name not in spoilt]
    each = correlations(recordings, list(recordings), networks)
    card = {
        "what": "creaky-voice posterior from measurements every 10 ms",
        "architecture": f"mean of {len(SEEDS)} networks of 6 rows: 2 hidden layers of {RECIPE.hidden}, tanh, logistic; in "
        f"compat with {len(SEEDS)} others (hidden layers of {COMPAT_RECIPE.hidden}) by their share: before digital silence "
        f"{BEFORE_SILENCE_SHARE}, after it {AFTER_SILENCE_SHARE}",
        "parameters": sum(value.size for value in (*networks.always.values(), *networks.compat.values())),
        "inputs": {
            "measurements": COMPAT_FEATURES,
            "rows": [*FRAME_FEATURES, "spoilt", *CONTOURS, *(f"{name}_smooth" for name in FRAME_FEATURES[RESIDUAL])],
            "rows_before_silence": BEFORE_SILENCE,
            "rows_after_silence": AFTER_SILENCE,
        },
        "trained_on": "recorded reference posteriors of RAVDESS speech clips (the audio is CC BY-NC-SA 4.0)",
        "split": f"by actor; held out: {', '.join(HELD_OUT_ACTORS)}",
        "command": "python -m extractors.acoustic.train_creak --data ../shared/data --output extractors/acoustic",
        "seeds": SEEDS,
        "sha256": sha256_file(paths[0]),
        "compat_sha256": sha256_file(paths[1]),
        "training": scores(clips, training, networks),
        "held_out": scores(clips, held_out, networks),
        "held_out_with_digital_silence": scores(clips, spoilt, networks),
        "held_out_without": scores(clips, whole, networks),
        "left_out_in_turn": left_out,
        "every_clip_without_its_actor": _summary(found),
        "chosen": "the recipe of the first networks, with an eye on the held-out actors and the recordings; that of compat's "
        "own, by the clips without their actors, and their share before silence by all three",
        "recordings": {**_summary(each), "r": {name: round(r, 4) for name, r in each.items()}},
    }
    (arguments.output / CARD.name).write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
