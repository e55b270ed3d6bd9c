"""A made-up dataset of short talking clips: faces and a voice from package media, one effect each in words, voice and face.

"bright" is in the words (the brighter halves of Dickens' opening), "high" in the voice (everything a third higher), "tilted"
in the face (the head leans to one side). The three hold independently of each other. Speakers differ in face and voice.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

from tests.media_maker import ffmpeg

LABELS = ("bright", "high", "tilted")
# Seconds of the phrases in the reading, brighter and darker.
PHRASES = {
    True: ((1.02, 2.97), (4.80, 6.48), (8.56, 10.57), (13.18, 15.01), (17.06, 18.92), (20.85, 22.76)),
    False: ((2.97, 4.80), (6.48, 8.56), (10.57, 13.18), (15.01, 17.06), (18.92, 20.85), (22.76, 24.45)),
}
FACES = ("0-f1-su-ph.jpg", "0-f15-hao-ph.jpg", "15-f13-anc-ph.jpg", "single_face.jpg")
HIGHER, TILT_RAD = 1.35, 0.4
RATE_HZ, FRAMES_PER_S, SIDE = 22_050, 8, 256


@dataclass(frozen=True)
class Clip:
    """One clip to be made."""

    name: str
    speaker: str
    split: str
    held: tuple[bool, bool, bool]

    @property
    def labels(self) -> set[str]:
        return {name for name, holds in zip(LABELS, self.held, strict=True) if holds}


def talking_clips(folder: Path, faces: Path, reading: Path, sizes: dict[str, int], seed: int = 0) -> list[Clip]:
    """Make the clips and ``labels.csv`` (train and valid rows alone: nobody has labels of what is to be predicted)."""
    chance = random.Random(seed)
    clips = []
    for split, n in sizes.items():
        for number in range(n):
            speaker = f"{split}{number // 4}"
            held = (bool(number & 1), bool(number & 2), chance.random() < 0.5)
            clips.append(Clip(f"{speaker}-{number:02d}.mp4", speaker, split, held))
    for clip in clips:
        make(folder / clip.name, clip, faces, reading, chance)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split", "speaker", *LABELS])
        for clip in clips:
            if clip.split != "test":
                writer.writerow([clip.name, clip.split, clip.speaker, *map(int, clip.held)])
    return clips


def make(path: Path, clip: Clip, faces: Path, reading: Path, chance: random.Random) -> None:
    """One clip: a still face that sways, and a phrase at the speaker's pitch."""
    bright, high, tilted = clip.held
    own = random.Random(clip.speaker)
    face, pitch = own.choice(FACES), own.uniform(0.92, 1.06) * (HIGHER if high else 1.0)
    start_s, end_s = chance.choice(PHRASES[bright])
    tilt = chance.uniform(0.8, 1.2) * TILT_RAD if tilted else chance.uniform(-0.15, 0.15) * TILT_RAD
    light, noise = own.uniform(-0.08, 0.08), chance.randrange(1000)
    ffmpeg(
        "-loop", 1, "-framerate", FRAMES_PER_S, "-i", faces / face,
        "-ss", start_s, "-t", end_s - start_s, "-i", reading,
        "-filter_complex",
        f"[0:v]scale={SIDE}:{SIDE},rotate='{tilt:.3f}+0.02*sin(5*t)':fillcolor=gray,eq=brightness={light:.3f},"
        f"noise=alls=4:all_seed={noise}[v];"
        f"[1:a]aresample={RATE_HZ},asetrate={round(RATE_HZ * pitch)},aresample={RATE_HZ},atempo={1 / pitch:.4f},"
        "adelay=200,apad=pad_dur=0.2[a]",
        "-map", "[v]", "-map", "[a]", "-shortest", "-pix_fmt", "yuv420p", path,
    )  # fmt: skip
