"""Train the small creak networks on recorded pairs of audio and reference posterior, split by actor.

In: ``DATA/covarep/ravdess_creak.npz`` (74 reference columns per clip) and ``DATA/ravdess/<clip>.flac``; the recordings
``DATA/covarep/<name>/`` are only tested on.
Out: ``creak.safetensors`` (per seed, convolutions over 2 ms cells, then over rows) and ``creak.json`` (origin, scores).

    python -m extractors.acoustic.train_creak --data ../shared/data --output extractors/acoustic
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from extractors.acoustic.creak import (
    CELLS,
    CONTOURS,
    FEATURES,
    FRAME_FEATURES,
    creak_features,
    missing_rows,
    network_inputs,
    run_networks,
)
from extractors.acoustic.frames import HOP_S, output_instants, to_instants
from extractors.acoustic.pitch import srh_pitch
from extractors.acoustic.polarity import speech_polarity
from extractors.weights import sha256_file

CREAK_COLUMN = 10
HELD_OUT_ACTORS = ("16", "17", "18", "19")
CELL_CHANNELS, ROW_CHANNELS = 24, 48
CROP_ROWS, BATCH = 200, 16
EPOCHS = 50
SEEDS = (7, 8, 9)


@dataclass(frozen=True)
class Pair:
    """One clip: network inputs (M, d) and (5 M, c), rows without value (M,); the reference's column (T,) at instants (s)."""

    rows: np.ndarray
    cells: np.ndarray
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
    time_s, features = creak_features(signal, rate_hz, pitch)
    instants_s = output_instants(len(signal), rate_hz, "compat")[: len(column)] / rate_hz
    duration_s = len(signal) / rate_hz
    missing = missing_rows(features, duration_s)
    return Pair(*network_inputs(features, duration_s, "compat"), missing, column.astype(np.float64), time_s, instants_s)


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

    def __init__(self, n_rows: int, n_cells: int) -> None:
        super().__init__()
        self.cell_1 = nn.Conv1d(n_cells, CELL_CHANNELS, 11, padding=5)
        self.cell_2 = nn.Conv1d(CELL_CHANNELS, CELL_CHANNELS, 7, padding=3)
        self.entry = nn.Conv1d(2 * CELL_CHANNELS + n_rows, ROW_CHANNELS, 1)
        self.row_1 = nn.Conv1d(ROW_CHANNELS, ROW_CHANNELS, 5, padding=2)
        self.row_2 = nn.Conv1d(ROW_CHANNELS, ROW_CHANNELS, 5, padding=2)
        self.row_3 = nn.Conv1d(ROW_CHANNELS, ROW_CHANNELS, 5, padding=2)
        self.exit = nn.Conv1d(ROW_CHANNELS, 1, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, rows: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """rows (B, d, M) scaled, cells (B, c, 5 M) → logits (B, M)."""
        fine = functional.relu(self.cell_2(functional.relu(self.cell_1(cells))))
        parts = [functional.max_pool1d(fine, CELLS), functional.avg_pool1d(fine, CELLS), self.dropout(rows)]
        hidden = functional.relu(self.entry(torch.cat(parts, dim=1)))
        for layer in (self.row_1, self.row_2, self.row_3):
            hidden = hidden + functional.relu(layer(self.dropout(hidden)))
        return self.exit(hidden)[:, 0]


def _loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Row r of the reference is the mean of feature times r − 1 and r; 0 there stands for NaN. (B, M) both."""
    posterior = torch.sigmoid(logits)
    estimate = ((posterior[:, 1:] + posterior[:, :-1]) / 2).clamp(1e-5, 1 - 1e-5)
    wanted = wanted[:, 1:]
    known = (wanted > 0).float()
    weight = known / known.sum().clamp(min=1)
    per_clip = known / known.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = functional.binary_cross_entropy(estimate, wanted.clamp(0, 1), reduction="none")
    square = (estimate - wanted) ** 2
    ratio = (torch.log(estimate + 0.001) - torch.log(wanted.clamp(0) + 0.001)) ** 2
    ours = estimate - (estimate * per_clip).sum(dim=1, keepdim=True)
    theirs = wanted - (wanted * per_clip).sum(dim=1, keepdim=True)
    power = (ours**2 * per_clip).sum(dim=1) * (theirs**2 * per_clip).sum(dim=1)
    correlation = (ours * theirs * per_clip).sum(dim=1) / torch.sqrt(power + 1e-12)
    return ((entropy + 5 * square + 0.1 * ratio) * weight).sum() + (1 - correlation).mean()


def fit(pairs: dict[str, Pair], names: list[str], seed: int, epochs: int = EPOCHS) -> dict[str, np.ndarray]:
    """Network and input scale from the training clips: AdamW on crops of two seconds."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    stacked = np.concatenate([pairs[name].rows for name in names])
    mean, scale = stacked.mean(axis=0), stacked.std(axis=0) + 1e-3
    clips = []
    for name in names:
        pair = pairs[name]
        wanted = np.full(len(pair.rows), -1.0, dtype=np.float32)
        n = min(len(wanted), len(pair.posterior))
        wanted[1:n] = pair.posterior[1:n]
        short = max(0, CROP_ROWS - len(wanted))
        scaled = np.pad(np.clip((pair.rows - mean) / scale, -4, 4), ((0, short), (0, 0)))
        cells = np.pad(pair.cells, ((0, CELLS * short), (0, 0)))
        clips.append(
            (torch.tensor(scaled), torch.tensor(cells), torch.tensor(np.pad(wanted, (0, short), constant_values=-1)))
        )
    network = Network(stacked.shape[1], clips[0][1].shape[1])
    steps = round(len(stacked) / CROP_ROWS / BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * steps)
    share = np.array([len(pairs[name].rows) for name in names], dtype=float)
    share /= share.sum()
    network.train()
    for _ in range(epochs * steps):
        batch = []
        for index in generator.choice(len(clips), BATCH, p=share):
            rows, cells, wanted = clips[index]
            begin = int(generator.integers(0, len(wanted) - CROP_ROWS + 1))
            end = begin + CROP_ROWS
            batch.append((rows[begin:end].T, cells[CELLS * begin : CELLS * end].T, wanted[begin:end]))
        rows, cells, wanted = (torch.stack(part) for part in zip(*batch, strict=True))
        logits = network(rows + 0.05 * torch.randn_like(rows), cells + 0.02 * torch.randn_like(cells))
        loss = _loss(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        schedule.step()
    weights = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
    return {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32), **weights}


def estimate(pair: Pair, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Our column at the reference's instants, (T,)."""
    posterior = np.where(pair.missing, np.nan, run_networks(pair.rows, pair.cells, weights))
    return to_instants(pair.time_s - HOP_S / 2, posterior, pair.instants_s)


def scores(pairs: dict[str, Pair], names: list[str], weights: dict[str, np.ndarray]) -> dict:
    """Correlation with the reference per clip (median, quartile) and over all rows, and the mean absolute error."""
    mine = [estimate(pairs[name], weights) for name in names]
    theirs = [pairs[name].posterior for name in names]
    per_clip = [np.corrcoef(a, b)[0, 1] for a, b in zip(mine, theirs, strict=True)]
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
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    clips, recordings = clip_pairs(arguments.data)
    held_out = [name for name in clips if name.rsplit("-", 1)[1] in HELD_OUT_ACTORS]
    training = [name for name in clips if name not in held_out]
    weights = {f"{seed}.{name}": value for seed in SEEDS for name, value in fit(clips, training, seed).items()}
    path = arguments.output / "creak.safetensors"
    save_file(weights, path)
    spoilt = [name for name in held_out if clips[name].rows[-1, len(FRAME_FEATURES)]]
    whole = [name for name in held_out if name not in spoilt]
    each = {name: scores(recordings, [name], weights)["median_r"] for name in recordings}
    card = {
        "what": "creaky-voice posterior from measurements every 10 ms and contours every 2 ms",
        "architecture": "mean of 3 networks: 2 convolutions over cells, maximum and mean, 3 residual ones over rows, logistic",
        "parameters": int(sum(value.size for value in weights.values())),
        "inputs": {"measurements": FEATURES, "rows": [*FRAME_FEATURES, "spoilt", *CONTOURS]},
        "trained_on": "recorded reference posteriors of RAVDESS speech clips (the audio is CC BY-NC-SA 4.0)",
        "split": f"by actor; held out: {', '.join(HELD_OUT_ACTORS)}",
        "command": "python -m extractors.acoustic.train_creak --data ../shared/data --output extractors/acoustic",
        "seeds": SEEDS,
        "sha256": sha256_file(path),
        "training": scores(clips, training, weights),
        "held_out": scores(clips, held_out, weights),
        "held_out_with_digital_silence": scores(clips, spoilt, weights),
        "held_out_without": scores(clips, whole, weights),
        "recordings": {**scores(recordings, list(recordings), weights), "r": each},
    }
    (arguments.output / "creak.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
