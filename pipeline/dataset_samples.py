"""From the tracks of whole files to samples: what lies in a row's interval, with its labels, in its split.

In: items and their extraction. Out: ``(split, Sample)``, file by file.

    items, kept_apart = choose_splits(items, extraction.contents, {"train": 0.7, "valid": 0.15, "test": 0.15})
    sampler = Sampler(extraction, label_set, aligned=False, neutral=False)
    save_dataset(Reading(header, sampler.samples(items)), folder)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from data.alignment import align_to_words, word_mean_spec
from data.batches import Sample
from data.clip import Word
from data.errors import InputError
from data.labels import LabelSet
from data.sources import NEUTRAL, LabelledItem, Split
from data.spec import MODALITIES, FeatureSpec, Modality
from data.splits import joined_groups, stratified_group_split
from data.track import FeatureTrack
from pipeline.dataset_extraction import Extraction
from pipeline.utterances import WordTimes
from pipeline.written_words import timed_words

Tracks = dict[Modality, FeatureTrack]
ROOM = 0.1  # by which the largest group may exceed the largest share


def choose_splits(
    items: Sequence[LabelledItem], contents: Mapping[Path, str], shares: Mapping[Split, float]
) -> tuple[tuple[LabelledItem, ...], str]:
    """The items with splits in which no speaker and no file appears twice, labels in proportion (deterministic); and what was
    kept apart, in words. ``contents`` are digests: a copy is the same file.

    Where files with several speakers tie so much together that this cannot be, only speakers are kept apart. Raises
    InputError (no_split) where there are fewer groups than splits even so.
    """
    known = sum(bool(item.speaker) for item in items)
    kept_apart = "speaker" if known == len(items) else "file" if not known else "speaker where known, else file"
    files = [f"content {contents.get(item.path, item.path)}" if item.path else f"text {item.text}" for item in items]
    speakers = [f"speaker {item.speaker}" if item.speaker else "" for item in items]
    groups = joined_groups(
        [[speaker, file] if speaker else [file] for speaker, file in zip(speakers, files, strict=True)]
    )
    if known and max(Counter(groups).values(), default=0) > len(items) * (max(shares.values()) + ROOM):
        alone = joined_groups([[speaker or file] for speaker, file in zip(speakers, files, strict=True)])
        if len(set(alone)) > len(set(groups)):
            groups = alone
            kept_apart += "; parts of a file with several speakers may lie in several splits"
    if len(set(groups)) < len(shares):
        what = "speakers" if known else "files"
        raise InputError(
            f"Expected at least {len(shares)} {what} to keep apart in {', '.join(shares)} but got {len(set(groups))}.",
            code="no_split",
            remedy="Give a 'split' in every row, or more recordings.",
        )
    found = stratified_group_split(groups, [item.labels for item in items], {str(k): v for k, v in shares.items()})
    chosen = tuple(replace(item, split=cast("Split", found[group])) for item, group in zip(items, groups, strict=True))
    return chosen, kept_apart


class Sampler:
    """Cuts samples. ``seconds`` counts, per split, what the samples last while they are made."""

    def __init__(self, extraction: Extraction, labels: LabelSet, aligned: bool, neutral: bool) -> None:
        self.extraction, self.labels, self.aligned, self.neutral = extraction, labels, aligned, neutral
        self.seconds: dict[str, dict[str, float]] = {}

    @property
    def specs(self) -> dict[Modality, FeatureSpec]:
        """What the samples' columns are."""
        specs = self.extraction.extractors.specs
        if not self.aligned:
            return specs
        return {name: spec if name == "text" else word_mean_spec(spec) for name, spec in specs.items()}

    def samples(self, items: Sequence[LabelledItem]) -> Iterator[tuple[Split, Sample]]:
        """All items, those of one file together. Raises LambError."""
        of_file: dict[Path | None, list[LabelledItem]] = {}
        for item in items:
            of_file.setdefault(item.path, []).append(item)
        for path, held in of_file.items():
            if path is None:
                for item in held:
                    yield self._sample(item, self._written(item), 0.0)
                continue
            tracks, words, length_s = self.extraction.tracks(path)
            times = WordTimes(words)
            for item in held:
                start_s = item.start_s or 0.0
                end_s = item.end_s if item.end_s is not None else max(length_s, start_s)
                yield self._sample(item, self._cut(item, tracks, times, start_s, end_s), end_s - start_s)

    def _written(self, item: LabelledItem) -> Tracks:
        from extractors.embedding import tokens_track

        extractors = self.extraction.extractors
        found: Tracks = {name: FeatureTrack.empty(extractors.specs[name], "not_extracted") for name in MODALITIES}
        found["text"] = tokens_track(item.text or "", extractors.vectors)
        return found

    def _cut(self, item: LabelledItem, tracks: Tracks, words: WordTimes, start_s: float, end_s: float) -> Tracks:
        """The tracks within an interval; with the words that were written down, where they were."""
        whole = item.start_s is None and item.end_s is None
        cut = dict(tracks)
        if not whole:
            cut |= {name: track.slice(start_s, end_s) for name, track in tracks.items()}
        if whole:
            cut["audio"] = _observed(tracks["audio"])  # as utterances begin and end with speech
        if item.text is not None and "text" in self.extraction.modalities:
            from extractors.embedding import embed

            heard: Sequence[Word] = words.words if whole else words.within(start_s, end_s)
            cut["text"] = embed(timed_words(item.text, heard, start_s, end_s), self.extraction.extractors.vectors)
        return cut

    def _sample(self, item: LabelledItem, tracks: Tracks, length_s: float) -> tuple[Split, Sample]:
        if self.aligned:
            text = tracks["text"]
            tracks = {name: track if name == "text" else align_to_words(text, track) for name, track in tracks.items()}
        assert item.split is not None
        lasting = self.seconds.setdefault(item.split, {"total": 0.0, "longest": 0.0})
        lasting["total"] = round(lasting["total"] + length_s, 3)
        lasting["longest"] = round(max(lasting["longest"], length_s), 3)
        names = item.labels or ((NEUTRAL,) if self.neutral and NEUTRAL in self.labels.names else ())
        return item.split, Sample(
            {name: tracks[name].values for name in MODALITIES},
            {name: tracks[name].valid for name in MODALITIES},
            self.labels.encode(names),
            id=item.id,
            defined={name: known for name in MODALITIES if (known := tracks[name].defined) is not None},
            group=item.speaker or (item.id.rpartition(":")[0] if item.start_s is not None else ""),
        )


def _observed(track: FeatureTrack) -> FeatureTrack:
    """From the first to the last valid step."""
    steps = np.flatnonzero(track.valid)
    if not len(steps):
        return track
    return track.slice(float(track.start_s[steps[0]]), float(track.end_s[steps[-1]]))
