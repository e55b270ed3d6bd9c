"""CMU-MOSEI's raw videos (Zadeh et al. 2018): people talking on YouTube, cut and rated for six emotions.

Layout: a folder with the rating table (``CMU_MOSEI_Labels.csd`` or ``emotion_ratings.csv``), ``standard_folds.json`` and,
at any depth, ``<video id>.mp4`` (``Raw/Videos/Full/Combined/`` in the release). Items are the rated pieces of whole videos,
with the ids that ``mosei-csd`` gives them; an emotion holds where its rating is above 0. What is said is taken from the
release's ``<video id>.txt`` (lines ``id___clip___start___end___words``) where they lie in a folder ``Segmented``.

    SOURCES.get("mosei-raw")(Path("mosei"))

The folds are by video and nobody says who speaks, so the video stands for the speaker: a person with two videos counts
twice. Videos in no fold are left out, as in the published sets. A few videos may be missing; more than 2 % of a fold is an
error.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError
from data.labels import EMOTIONS
from data.mosei import RATED_AS, SAME_TIME_S, Segment, read_folds, read_ratings
from data.sources import SOURCES, SPLITS, LabelledItem

MOST_MISSING = 0.02
SEPARATOR = "___"


@SOURCES.register("mosei-raw")
def read(folder: Path) -> list[LabelledItem]:
    """All rated segments of the folds whose video is there, in the table's order. Raises InputError: no table, folds or videos,
    or too many videos missing."""
    folds, table = read_folds(folder), read_ratings(folder)
    videos = {path.stem: path for path in sorted(folder.rglob("*.mp4"), reverse=True) if path.stat().st_size}
    transcripts = {path.stem: path for path in sorted(folder.glob("**/Segmented/**/*.txt"), reverse=True)}
    for split in SPLITS:
        wanted = [video for video in table.videos if folds.get(video) == split]
        missing = [video for video in wanted if video not in videos]
        if len(missing) > MOST_MISSING * len(wanted):
            raise InputError(
                f"Expected the {len(wanted)} videos of the fold {split} in {str(folder)!r} (like {missing[0]}.mp4) but "
                f"{len(missing)} are missing.",
                remedy="Unpack the whole of CMU_MOSEI.zip (Raw/Videos/Full/Combined).",
                code="no_dataset",
            )
    items = []
    for video, segments in table.videos.items():
        if video not in folds or video not in videos:
            continue
        words = _words(transcripts.get(video))
        for segment in segments:
            items.append(
                LabelledItem(
                    f"cmu-mosei/{video}[{segment.number}]",
                    folds[video],
                    _labels(segment),
                    video,
                    _said(segment, words),
                    videos[video],
                    segment.start_s,
                    segment.end_s,
                )
            )
    if not items:
        raise InputError(
            f"Expected videos that the rating table names in {str(folder)!r} but there is none.", code="no_dataset"
        )
    return items


def _labels(segment: Segment) -> tuple[str, ...]:
    held = {name for name, rating in zip(RATED_AS, segment.ratings, strict=True) if rating > 0}
    return tuple(name for name in EMOTIONS if name in held)


def _words(path: Path | None) -> list[tuple[float, float, str]]:
    """Start, end and words of each line; a line of another form is passed over."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path else ():
        parts = line.split(SEPARATOR, 4)
        try:
            found.append((float(parts[2]), float(parts[3]), parts[4].strip()))
        except (IndexError, ValueError):
            continue
    return found


def _said(segment: Segment, words: list[tuple[float, float, str]]) -> str | None:
    for start_s, end_s, text in words:
        if abs(start_s - segment.start_s) < SAME_TIME_S and abs(end_s - segment.end_s) < SAME_TIME_S:
            return text
    return None
