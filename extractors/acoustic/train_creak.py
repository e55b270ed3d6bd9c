"""Train the small creak network on recorded pairs of audio and reference posterior, split by actor.

In: ``DATA/covarep/ravdess_creak.npz`` (74 reference columns per clip) and ``DATA/ravdess/<clip>.flac``.
Out: ``creak.safetensors`` (36-32-1, tanh then logistic) and ``creak.json`` (where it comes from, how well it does).

    python -m extractors.acoustic.train_creak --data ../shared/data --output extractors/acoustic
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from extractors.acoustic.creak import FEATURES, creak_features, with_derivatives
from extractors.acoustic.pitch import srh_pitch
from extractors.acoustic.polarity import speech_polarity
from extractors.weights import sha256_file

CREAK_COLUMN = 10
HELD_OUT_ACTORS = ("16", "17", "18", "19")
N_HIDDEN = 32
N_STEPS = 3000
SEED = 7


def clip_pairs(data: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Clip name → 36 inputs per feature time (M, 36), reference posterior per output row (T,)."""
    import soundfile

    pairs = {}
    with np.load(data / "covarep" / "ravdess_creak.npz") as reference:
        for name in reference.files:
            samples, rate_hz = soundfile.read(data / "ravdess" / f"{name}.flac", dtype="float64", always_2d=True)
            signal = np.ascontiguousarray(samples[:, 0])
            signal *= speech_polarity(signal, rate_hz)
            _, features = creak_features(signal, rate_hz, srh_pitch(signal, rate_hz, "fixed"))
            pairs[name] = with_derivatives(features), reference[name][:, CREAK_COLUMN].astype(np.float64)
    return pairs


def row_index(n_features: int, n_rows: int) -> np.ndarray:
    """Output row r (at .005 + .01 r s) lies between feature times r − 1 and r (at .01, .02 … s): rows that have both."""
    rows = np.arange(1, n_rows)
    return rows[rows < n_features]


def fit(pairs: dict[str, tuple[np.ndarray, np.ndarray]], names: list[str]) -> dict[str, np.ndarray]:
    """Network and input range from the training clips: full-batch Adam on the cross-entropy of the posterior."""
    import torch

    torch.manual_seed(SEED)
    stacked = np.concatenate([pairs[name][0] for name in names])
    low, high = stacked.min(axis=0), stacked.max(axis=0)
    before, after, target = [], [], []
    offset = 0
    for name in names:
        inputs, posterior = pairs[name]
        rows = row_index(len(inputs), len(posterior))
        before.append(offset + rows - 1)
        after.append(offset + rows)
        target.append(posterior[rows])
        offset += len(inputs)
    scaled = torch.tensor(2 * (stacked - low) / np.maximum(high - low, 1e-12) - 1, dtype=torch.float32)
    first, second = (torch.tensor(np.concatenate(index)) for index in (before, after))
    wanted = torch.tensor(np.concatenate(target), dtype=torch.float32).clamp(0, 1)
    hidden, out = torch.nn.Linear(scaled.shape[1], N_HIDDEN), torch.nn.Linear(N_HIDDEN, 1)
    parameters = [*hidden.parameters(), *out.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.01, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, N_STEPS)
    for _ in range(N_STEPS):
        posterior = torch.sigmoid(out(torch.tanh(hidden(scaled))))[:, 0]
        mean = (posterior[first] + posterior[second]) / 2
        loss = torch.nn.functional.binary_cross_entropy(mean.clamp(1e-6, 1 - 1e-6), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return {
        "low": low.astype(np.float32),
        "high": high.astype(np.float32),
        "hidden_weight": hidden.weight.detach().numpy().copy(),
        "hidden_bias": hidden.bias.detach().numpy().copy(),
        "out_weight": out.weight.detach().numpy().copy(),
        "out_bias": out.bias.detach().numpy().copy(),
    }


def scores(pairs: dict[str, tuple[np.ndarray, np.ndarray]], names: list[str], network: dict[str, np.ndarray]) -> dict:
    """Correlation with the reference per clip (median, quartile) and over all rows, and the mean absolute error."""
    from extractors.acoustic.creak import run_network

    mine, theirs, per_clip = [], [], []
    for name in names:
        inputs, posterior = pairs[name]
        rows = row_index(len(inputs), len(posterior))
        estimate = run_network(inputs, network)
        mine.append((estimate[rows - 1] + estimate[rows]) / 2)
        theirs.append(posterior[rows])
        if theirs[-1].std() > 0:
            per_clip.append(float(np.corrcoef(mine[-1], theirs[-1])[0, 1]))
    together = np.concatenate(mine), np.concatenate(theirs)
    return {
        "clips": len(names),
        "median_r": round(float(np.median(per_clip)), 4),
        "lower_quartile_r": round(float(np.percentile(per_clip, 25)), 4),
        "r_all_rows": round(float(np.corrcoef(*together)[0, 1]), 4),
        "mean_absolute_error": round(float(np.mean(np.abs(together[0] - together[1]))), 5),
    }


def main() -> None:
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    pairs = clip_pairs(arguments.data)
    held_out = [name for name in pairs if name.rsplit("-", 1)[1] in HELD_OUT_ACTORS]
    training = [name for name in pairs if name not in held_out]
    network = fit(pairs, training)
    weights = arguments.output / "creak.safetensors"
    save_file(network, weights)
    card = {
        "what": "creaky-voice posterior from 12 signal measurements with first and second differences",
        "architecture": f"{3 * len(FEATURES)}-{N_HIDDEN}-1, tanh then logistic, inputs scaled to -1..1 by low and high",
        "inputs": FEATURES,
        "trained_on": "recorded reference posteriors of RAVDESS speech clips (the audio is CC BY-NC-SA 4.0)",
        "split": f"by actor; held out: {', '.join(HELD_OUT_ACTORS)}",
        "command": "python -m extractors.acoustic.train_creak --data ../shared/data --output extractors/acoustic",
        "seed": SEED,
        "sha256": sha256_file(weights),
        "training": scores(pairs, training, network),
        "held_out": scores(pairs, held_out, network),
    }
    (arguments.output / "creak.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
