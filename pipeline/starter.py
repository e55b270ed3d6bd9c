"""The one command that makes the checkpoint which ships inside the package, and the numbers on its card.

    python -m pipeline.starter --data ../shared/data --work /tmp/starter --output lamb/starter

Needs the folders goemotions/, ravdess/ and faces/ in DATA (clips/crema_d/ too, for the end-to-end rows). No recording
in them has more than one modality, so fusion is learnt from joined samples (``pipeline.starter_joins``). With vectors of
your own, ``--vectors glove-6b-300d --vectors-path glove.6B.zip`` makes another checkpoint, which then needs those vectors.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.sources import SOURCES, Split
from data.spec import MODALITIES, FeatureSpec, Modality
from lamb.checkpoint import Checkpoint
from pipeline.settings import PipelineSettings
from pipeline.starter_card import model_card
from pipeline.starter_data import Tracks, face_tracks, text_tracks, voice_tracks
from pipeline.starter_joins import Groups, join, single
from pipeline.starter_measure import end_to_end, measure, seed_results
from pipeline.starter_training import TRAINING, Prepared, Recipe, Say, train

NAME = "starter"
SOURCE_OF: dict[Modality, tuple[str, str]] = {
    "text": ("goemotions", "goemotions"),
    "audio": ("ravdess", "ravdess"),
    "visual": ("face-stills", "faces"),
}
N_JOINED = {"train": 10_000, "valid": 600, "test": 1200}


def prepare(root: Path, work: Path, settings: PipelineSettings, say: Say) -> Prepared:
    """Read the three sets, extract their tracks, and join them."""
    items = {name: SOURCES.get(source)(root / folder) for name, (source, folder) in SOURCE_OF.items()}
    tracks: dict[str, Tracks] = {
        "text": text_tracks(items["text"], settings),
        "audio": voice_tracks(items["audio"], work, settings, say),
        "visual": face_tracks(items["visual"], work, settings, say),
    }
    specs: dict[Modality, FeatureSpec] = {name: next(iter(tracks[name].values())).spec for name in MODALITIES}
    groups: dict[Split, Groups] = {"train": {}, "valid": {}, "test": {}}
    undetected = {}
    for name in MODALITIES:
        lost = [item for item in items[name] if not tracks[name][item.id].observed]
        undetected[name] = len(lost)
        for split, found in groups.items():
            chosen = [i for i in items[name] if i.split == split and tracks[name][i.id].observed]
            found[name] = [single(item, name, tracks[name][item.id], specs) for item in chosen]
    for number, (split, found) in enumerate(groups.items()):
        found["joined"] = join(found, N_JOINED[split], np.random.default_rng(number))
    return Prepared(groups, specs, undetected)


def measured(checkpoint: Checkpoint, prepared: Prepared) -> dict[str, Any]:
    """The numbers of the card but for CREMA-D."""
    found = measure(checkpoint, prepared.groups["valid"], prepared.groups["test"])
    return found | {"undetected": prepared.undetected}


def command(arguments: argparse.Namespace) -> str:
    """The line that makes this checkpoint, without anybody's folders."""
    line = f"python -m pipeline.starter --data ../shared/data --work WORK --output lamb/starter --seed {arguments.seed}"
    vectors = "" if arguments.vectors == PipelineSettings().vectors else f" --vectors {arguments.vectors}"
    return (
        line
        + vectors
        + (" --vectors-path FILE" if arguments.vectors_path else "")
        + (" --others SEED…" if arguments.others else "")
    )


def main() -> None:
    """Prepare, train, measure, write."""
    parser = argparse.ArgumentParser(description="Train the starter checkpoint.")
    parser.add_argument("--data", type=Path, required=True, help="folder with goemotions/, ravdess/, faces/")
    parser.add_argument("--work", type=Path, required=True, help="where extracted features are kept between runs")
    parser.add_argument("--output", type=Path, required=True, help="folder for starter.safetensors, .json and the card")
    parser.add_argument(
        "--seed", type=int, default=TRAINING.seed, help="of first weights, order, dropout, augmentation"
    )
    parser.add_argument(
        "--others",
        type=Path,
        nargs="*",
        default=[],
        help="checkpoints of other seeds, for the card to name their results",
    )
    parser.add_argument("--vectors", default=PipelineSettings().vectors, help="word vectors, see `lamb weights`")
    parser.add_argument("--vectors-path", type=Path, help="their .txt, .txt.gz or .zip")
    arguments = parser.parse_args()
    recipe = Recipe(training=TRAINING.model_copy(update={"seed": arguments.seed}))
    torch.set_num_threads(1)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {line}", flush=True)

    settings = PipelineSettings(device="cpu", vectors=arguments.vectors, vectors_path=arguments.vectors_path)
    prepared = prepare(arguments.data, arguments.work, settings, say)
    for split, found in prepared.groups.items():
        say(f"{split}: " + ", ".join(f"{len(samples)} {name}" for name, samples in found.items()))
    checkpoint = train(prepared, recipe, say)
    checkpoint.provenance = {
        "name": NAME,
        "command": command(arguments),
        "data": ["GoEmotions (Ekman grouping)", "RAVDESS speech, actors 1-16", "facial_expressions stills"],
        "training": recipe.training.model_dump(mode="json"),
        "shares": recipe.shares,
        "column_dropout": list(recipe.column_dropout),
        "agreement": recipe.agreement,
        "finishes": {how.modality: {"teachers": how.n_teachers, "teaching": how.teaching} for how in recipe.finishes},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - started),
    }
    clips = arguments.data / "clips" / "crema_d"
    arguments.output.mkdir(parents=True, exist_ok=True)
    written = checkpoint.save(arguments.output / NAME, half=True)
    # What is measured must be what ships: half-precision weights, read back.
    shipped = Checkpoint.load(written)
    shipped.metrics = measured(shipped, prepared)
    if clips.is_dir():
        shipped.metrics["crema_d"] = end_to_end(shipped, clips, settings)
    shipped.metrics["other_seeds"] = [seed_results(Checkpoint.load(path)) for path in arguments.others]
    shipped.save(arguments.output / NAME, half=True)
    (arguments.output / "README.md").write_text(model_card(shipped), encoding="utf-8")
    say(json.dumps(shipped.metrics, indent=1))


if __name__ == "__main__":
    sys.exit(main())
