"""Annotations made or corrected in ELAN (``.eaf``, MPI Nijmegen).

Layout: a folder with ``.eaf`` files (any depth) and their recordings, or one ``.eaf`` beside its recording. Tiers, by name:

- ``emotion``, ``emotions``, ``label`` or ``labels``: each annotation lists what holds: ``anger; sadness``, ``neutral`` for
  nothing. What it does not cover is not labelled;
- without such a tier, every other tier is a label of its name: where it has an annotation, the label holds (but
  for the values 0, no and false; drawing an empty one is enough); a tier ``neutral`` marks stretches in which none does;
- ``words``, ``text``, ``transcription``, ``transcript``, ``utterance(s)`` or ``speech``: what is said. Where
  there is a tier per label, such an annotation that no label touches is an utterance in which none holds;
- ``default``, ``notes``, ``comments``: ignored.

    SOURCES.get("elan")(Path("corrected"))

The speaker is the tier's PARTICIPANT, or what follows an @ in its name. Annotations of one speaker whose intervals agree by
80 % (intersection over union) are one utterance, which has the times of the words, or else of the first. Times are
milliseconds, ``TIME_ORIGIN`` of the media is added. No split is chosen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from data.errors import InputError
from data.sources import NEUTRAL, SOURCES, LabelledItem
from data.sources.places import VIDEO_SUFFIXES, MediaFinder, label_list

LIST_TIERS = frozenset({"emotion", "emotions", "label", "labels"})
TEXT_TIERS = frozenset({"words", "text", "transcription", "transcript", "utterance", "utterances", "speech"})
OTHER_TIERS = frozenset({"default", "note", "notes", "comment", "comments"})
NOT_HELD = frozenset({"0", "no", "n", "false"})
SAME_UTTERANCE = 0.8
MAX_BYTES = 64 * 2**20
MAX_DEPTH = 32


@SOURCES.register("elan")
def read(place: Path) -> list[LabelledItem]:
    """All utterances, by file, in order of time. Raises InputError: no ``.eaf``, one that is not ELAN's XML or has a DTD, a
    recording that is not below the folder, or an annotation without times."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*.eaf") if path.name[0] != ".")
    if not files:
        raise InputError(f"Expected .eaf files in {str(place)!r} but there is none.", code="no_dataset")
    root = place.parent if place.is_file() else place
    finder = MediaFinder(root)
    items = []
    for path in files:
        document = parsed(path)
        media, origin_ms = _media(document, path, finder)
        name = path.relative_to(root).with_suffix("").as_posix()
        for found in _utterances(document, path):
            who = f"-{found.speaker}" if found.speaker else ""
            items.append(
                LabelledItem(
                    f"elan/{name}/{found.start_ms}-{found.end_ms}{who}",
                    None,
                    tuple(found.labels),
                    found.speaker,
                    " ".join(" ".join(found.words).split()) or None,
                    media,
                    (found.start_ms + origin_ms) / 1000,
                    (found.end_ms + origin_ms) / 1000,
                )
            )
    if not items:
        raise InputError(f"Expected annotations in {str(place)!r} but there is none.", code="bad_dataset")
    return items


def parsed(path: Path) -> Element:
    """The root of an XML file without a DTD, so that no entity is ever expanded. Raises InputError."""
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"elements nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise ValueError("a document type declaration")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size / 2**20:.0f} MiB")
        parser.Parse(path.read_bytes(), True)
        root = builder.close()
        if root.tag != "ANNOTATION_DOCUMENT":
            raise ValueError(f"<{root.tag[:80]}>")
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        raise InputError(
            f"Expected an ELAN file (XML without DTD, at most {MAX_BYTES // 2**20} MiB) at {str(path)!r} but got {error}.",
            code="bad_dataset",
        ) from error
    return root


def _media(document: Element, path: Path, finder: MediaFinder) -> tuple[Path, int]:
    """The recording (a video where there is one) and what is to be added to times, in ms."""
    header = document.find("HEADER")
    units = header.get("TIME_UNITS", "milliseconds") if header is not None else "milliseconds"
    if units != "milliseconds":
        raise InputError(f"Expected times in milliseconds in {path.name} but got {units!r}.", code="bad_dataset")
    named, found = [], []
    for descriptor in document.iterfind("HEADER/MEDIA_DESCRIPTOR"):
        origin_ms = int(_number(descriptor.get("TIME_ORIGIN", "0"), path))
        for address in (descriptor.get("RELATIVE_MEDIA_URL", ""), descriptor.get("MEDIA_URL", "")):
            named.append(address)
            media = finder.find(address, path.parent)
            if media is not None:
                found.append((media, origin_ms))
                break
    found.sort(key=lambda pair: pair[0].suffix.lower() not in VIDEO_SUFFIXES)
    if not found:
        names = ", ".join(repr(name) for name in dict.fromkeys(named) if name) or "no media at all"
        raise InputError(
            f"Expected the recording of {path.name} below {str(finder.root)!r} but {names} is not there.",
            remedy="Put it beside the .eaf file.",
            code="no_dataset",
        )
    return found[0]


@dataclass
class _Utterance:
    speaker: str
    start_ms: int
    end_ms: int
    labels: dict[str, None] = field(default_factory=dict)  # a set in order
    words: list[str] = field(default_factory=list)
    marked: bool = False

    def agreement(self, other: _Utterance) -> float:
        """Intersection over union of two intervals; 0 for different speakers. Nobody named may be anybody."""
        if self.speaker and other.speaker and self.speaker != other.speaker:
            return 0.0
        shared = min(self.end_ms, other.end_ms) - max(self.start_ms, other.start_ms)
        return max(0, shared) / (max(self.end_ms, other.end_ms) - min(self.start_ms, other.start_ms))


class _Timeline:
    """Utterances in order of time, of which those that touch an interval are found without looking at all."""

    def __init__(self, utterances: Iterable[_Utterance] = ()) -> None:
        self.utterances = sorted(utterances, key=_order)
        self._starts_ms = [one.start_ms for one in self.utterances]
        self._longest_ms = max((one.end_ms - one.start_ms for one in self.utterances), default=0)

    def add(self, one: _Utterance) -> None:
        i = bisect_right(self._starts_ms, one.start_ms)
        self.utterances.insert(i, one)
        self._starts_ms.insert(i, one.start_ms)
        self._longest_ms = max(self._longest_ms, one.end_ms - one.start_ms)

    def touching(self, other: _Utterance) -> list[_Utterance]:
        """Those that share time and speaker with another."""
        first = bisect_left(self._starts_ms, other.start_ms - self._longest_ms)
        last = bisect_left(self._starts_ms, other.end_ms)
        return [one for one in self.utterances[first:last] if one.agreement(other) > 0]


def _utterances(document: Element, path: Path) -> list[_Utterance]:
    tiers = [(tier, *_named(tier)) for tier in document.iterfind("TIER")]
    listed = any(name.lower() in LIST_TIERS for _, name, _ in tiers)
    marks, said = _marks(tiers, listed, _intervals(document, path))
    found = _Timeline()
    for one in said:  # their times come first: labels are drawn after them
        if not any(u.agreement(one) == 1.0 and u.speaker == one.speaker for u in found.touching(one)):
            found.add(_Utterance(one.speaker, one.start_ms, one.end_ms))
    for mark in marks:
        best = max(found.touching(mark), key=mark.agreement, default=None)
        if best is None or best.agreement(mark) < SAME_UTTERANCE:
            best = _Utterance(mark.speaker, mark.start_ms, mark.end_ms)
            found.add(best)
        best.marked = True
        best.speaker = best.speaker or mark.speaker
        best.labels.update(mark.labels)
    # Words inside a longer labelled stretch are its words, no utterances of their own.
    stretches, words = _Timeline(marks), _Timeline(said)
    kept = [u for u in found.utterances if u.marked or not (listed or stretches.touching(u))]
    for utterance in kept:
        for one in words.touching(utterance):
            if utterance.start_ms <= (one.start_ms + one.end_ms) / 2 < utterance.end_ms:
                utterance.words += one.words
    return sorted(kept, key=lambda u: (u.start_ms, u.end_ms, u.speaker))


def _marks(
    tiers: list[tuple[Element, str, str]], listed: bool, interval: Callable[[str], tuple[int, int]]
) -> tuple[list[_Utterance], list[_Utterance]]:
    """Annotations that say what holds, and those that say what was said, each in order of time."""
    marks, said = [], []
    for tier, name, speaker in tiers:
        kind = name.lower()
        if kind in OTHER_TIERS or (listed and kind not in LIST_TIERS | TEXT_TIERS):
            continue
        for annotation in tier.iterfind("ANNOTATION/*"):
            value = " ".join((annotation.findtext("ANNOTATION_VALUE") or "").split())
            start_ms, end_ms = interval(annotation.get("ANNOTATION_ID", ""))
            if end_ms <= start_ms:
                continue
            one = _Utterance(speaker, start_ms, end_ms)
            if kind in TEXT_TIERS:
                one.words.append(value)
                said.append(one)
                continue
            if kind in LIST_TIERS:
                one.labels.update(dict.fromkeys(label_list(value)))
            elif kind != NEUTRAL and value.lower() not in NOT_HELD:
                one.labels[name] = None
            marks.append(one)
    return sorted(marks, key=_order), sorted(said, key=_order)


def _order(one: _Utterance) -> tuple[int, int]:
    return one.start_ms, one.end_ms


def _named(tier: Element) -> tuple[str, str]:
    """What a tier is called without its speaker, and the speaker."""
    name, participant = tier.get("TIER_ID", "").strip(), tier.get("PARTICIPANT", "").strip()
    base, at, after = name.rpartition("@")
    return (base.strip(), participant or after.strip()) if at and base else (name, participant)


def _intervals(document: Element, path: Path) -> Callable[[str], tuple[int, int]]:
    """Gives the times of an annotation by its id; one that refers to another has the other's."""
    slots = {
        slot.get("TIME_SLOT_ID"): int(_number(slot.get("TIME_VALUE", ""), path))
        for slot in document.iterfind("TIME_ORDER/TIME_SLOT")
        if slot.get("TIME_VALUE")
    }
    annotations = {one.get("ANNOTATION_ID"): one for one in document.iterfind("TIER/ANNOTATION/*")}

    def interval(id_: str) -> tuple[int, int]:
        seen: set[str | None] = set()
        one = annotations.get(id_)
        while one is not None and one.tag == "REF_ANNOTATION" and one.get("ANNOTATION_ID") not in seen:
            seen.add(one.get("ANNOTATION_ID"))
            one = annotations.get(one.get("ANNOTATION_REF"))
        try:
            if one is None or one.tag != "ALIGNABLE_ANNOTATION":
                raise KeyError(id_)
            return slots[one.get("TIME_SLOT_REF1")], slots[one.get("TIME_SLOT_REF2")]
        except KeyError as error:
            raise InputError(
                f"Expected times for annotation {id_!r} in {path.name} but it has none.",
                remedy="Align it in ELAN.",
                code="bad_dataset",
            ) from error

    return interval


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"Expected a time in ms in {path.name} but got {text!r}.", code="bad_dataset") from error
