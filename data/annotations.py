"""What LAMB said, as files in which people correct it: ELAN and Label Studio.

In: documents as ``lamb predict --json`` and ``lamb label`` write them (docs/output.md). Out: an ``.eaf`` per recording, or
tasks with predictions for Label Studio and the labelling configuration that goes with them. What comes back is read by the
sources ``elan`` and ``label-studio``, with the same times (to the millisecond) and labels.

    for document in read_documents(Path("results/json")):
        for record in document["files"]:
            content = elan_file(record, labels_of(document))         # bytes, or None for a file that failed
    tasks = label_studio_tasks(documents)                            # json.dumps(tasks) is the file to import

ELAN: a tier per label with an annotation where the label holds, whose value is its probability, and a tier ``words`` with
an annotation per utterance, also where nothing was recognised. To take a label away, delete its annotation; to add one, put
an annotation with any text into its tier. With several faces (``face``) each has its tiers, ``anger@face 0``. Label Studio:
regions of the sound in seconds, ``neutral`` where no label holds, and the words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring
from xml.sax.saxutils import quoteattr

from data.errors import InputError
from data.sources import NEUTRAL
from data.sources.elan import LIST_TIERS, OTHER_TIERS, TEXT_TIERS
from data.sources.label_studio import SPEAKER
from data.sources.places import LIST_SEPARATORS, VIDEO_SUFFIXES

SCHEMA = 1
MAX_BYTES = 512 * 2**20
WORDS, LABELS = "words", "labels"
UTTERANCE = "utterance"  # ELAN's linguistic type of all tiers
NO_DATE = "1970-01-01T00:00:00+00:00"  # the same results give the same bytes
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
XSI = "http://www.w3.org/2001/XMLSchema-instance"
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its own machine


def read_documents(place: Path) -> Iterator[dict[str, Any]]:
    """The documents in a file, or in all ``.json`` files below a folder, by path. Raises InputError: none, or another JSON."""
    paths = [place] if place.is_file() else sorted(place.rglob("*.json"))
    if not paths:
        raise InputError(f"Expected results (.json) in {str(place)!r} but there is none.", code="no_results")
    for path in paths:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"{path.stat().st_size / 2**20:.0f} MiB")
            document = json.loads(path.read_bytes())
            parts = [document.get("checkpoint") or {}, *document["files"]]
            if document["schema"] != SCHEMA or not all(isinstance(part, dict) for part in parts):
                raise ValueError(f"schema {document['schema']!r}")
            if not all(isinstance(label, str) for label in labels_of(document)):
                raise ValueError(f"labels {labels_of(document)}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"Expected what lamb predict --json writes (schema {SCHEMA}) at {str(path)!r} but got "
                f"{type(error).__name__}: {error}.",
                code="bad_results",
            ) from error
        yield document


def labels_of(document: dict[str, Any]) -> tuple[str, ...]:
    """Names of the labels, in the checkpoint's order; none where the command could not start."""
    return tuple((document.get("checkpoint") or {}).get("labels", ()))


# ---- ELAN ---------------------------------------------------------------------------------------------------------------


def elan_file(record: dict[str, Any], labels: Iterable[str], media: str | None = None) -> bytes | None:
    """An ``.eaf`` for one element of ``files``, or None if it failed.

    Parameters
    ----------
    labels : names of all labels; a tier each, also where it never holds. A name that would mean something else to the reader
        (``words``, ``notes``, one with an @) puts all labels into one tier ``labels`` with lists.
    media : where the recording lies, seen from the ``.eaf``; default beside it.

    Raises InputError where a name can be written in neither way, or the record is not as documented.
    """
    if record.get("outcome") == "failed":
        return None
    utterances = _utterances(record)
    labels = tuple(labels)
    reserved = LIST_TIERS | TEXT_TIERS | OTHER_TIERS
    listed = any(name.lower() in reserved or "@" in name for name in labels)
    if listed and any(LIST_SEPARATORS.search(name) for name in labels):
        raise InputError(f"Expected labels that ELAN tiers can be named after but got {labels}.", code="bad_labels")
    name = PurePath(record["file"].replace("\\", "/")).name
    root = Element("ANNOTATION_DOCUMENT", AUTHOR="lamb", DATE=NO_DATE, FORMAT="3.0", VERSION="3.0")
    root.set("xmlns:xsi", XSI)
    root.set("xsi:noNamespaceSchemaLocation", "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    address = _xml(media or f"./{name}")
    kind = "video/mp4" if PurePath(name).suffix.lower() in VIDEO_SUFFIXES else "audio/x-wav"
    SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=address, MIME_TYPE=kind, RELATIVE_MEDIA_URL=address)
    tiers = _tiers(utterances, labels, listed, PurePath(name).stem)
    # Two slots for each annotation: ELAN moves all annotations that share one.
    ends = [(time_ms, i) for i, row in enumerate(row for rows in tiers.values() for row in rows) for time_ms in row[:2]]
    slots: dict[int, list[str]] = {}
    order = SubElement(root, "TIME_ORDER")
    for number, (time_ms, i) in enumerate(sorted(ends), 1):
        slots.setdefault(i, []).append(f"ts{number}")
        SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{number}", TIME_VALUE=str(time_ms))
    count = 0
    for (tier, participant), rows in tiers.items():
        holder = SubElement(root, "TIER", LINGUISTIC_TYPE_REF=UTTERANCE, TIER_ID=_xml(tier))
        if participant:
            holder.set("PARTICIPANT", _xml(participant))
        for _, _, value in rows:
            first, last = slots[count]
            count += 1
            times = {"ANNOTATION_ID": f"a{count}", "TIME_SLOT_REF1": first, "TIME_SLOT_REF2": last}
            one = SubElement(SubElement(holder, "ANNOTATION"), "ALIGNABLE_ANNOTATION", times)
            SubElement(one, "ANNOTATION_VALUE").text = _xml(value)
    SubElement(root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID=UTTERANCE, TIME_ALIGNABLE="true")
    indent(root, " ")
    return tostring(root, "utf-8", xml_declaration=True) + b"\n"


Rows = list[tuple[int, int, str]]


def _tiers(
    utterances: list[dict[str, Any]], labels: tuple[str, ...], listed: bool, stem: str
) -> dict[tuple[str, str], Rows]:
    """Start and end in ms and value of the annotations of each tier, whose key is its name and its speaker."""
    tiers: dict[tuple[str, str], Rows] = {}
    for face in sorted({row.get("face") for row in utterances}, key=lambda face: -1 if face is None else face) or [
        None
    ]:
        after, who = ("", "") if face is None else (f"@face {face}", f"{stem} face {face}")
        rows = [(*_span_ms(row), row) for row in utterances if row.get("face") == face]
        tiers[WORDS + after, who] = [(a, b, row.get("text") or "") for a, b, row in rows]
        if listed:
            tiers[LABELS + after, who] = [(a, b, "; ".join(row["labels"]) or NEUTRAL) for a, b, row in rows]
            continue
        for label in labels:
            tiers[label + after, who] = [(a, b, _value(row, label)) for a, b, row in rows if label in row["labels"]]
    return tiers


def _value(row: dict[str, Any], label: str) -> str:
    probability = row.get("probabilities", {}).get(label)
    return "1" if probability is None else f"{probability:.2f}"


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return NOT_XML.sub("", text)


# ---- Label Studio -------------------------------------------------------------------------------------------------------


def label_studio_tasks(documents: Iterable[dict[str, Any]], address: str = LOCAL_FILES) -> list[dict[str, Any]]:
    """A task with predictions per file that did not fail, as plain JSON values.

    ``address`` is what goes before the file's path (percent-encoded) to make the address at which Label Studio finds it.
    Raises InputError for a record that is not as documented.
    """
    tasks = []
    for document in documents:
        version = str((document.get("checkpoint") or {}).get("fingerprint", ""))[:12]
        for record in document["files"]:
            if record.get("outcome") != "failed":
                results = [result for n, row in enumerate(_utterances(record)) for result in _region(n, row, record)]
                prediction = {"model_version": f"lamb {version}".strip(), "result": results}
                video = address + quote(str(record["file"]))
                tasks.append({"data": {"video": video}, "predictions": [prediction]})
    return tasks


def _region(number: int, row: dict[str, Any], record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    start_ms, end_ms = _span_ms(row)
    span = {"start": start_ms / 1000, "end": end_ms / 1000}
    common = {"id": f"utterance{number}", "to_name": "audio", "original_length": record.get("duration_s")}
    scores = [row.get("probabilities", {}).get(label, 1.0) for label in row["labels"]]
    score = {"score": min(scores)} if scores else {}
    labels = list(row["labels"]) or [NEUTRAL]
    yield {**common, "from_name": LABELS, "type": "labels", "value": {**span, "labels": labels}, **score}
    if row.get("text"):
        yield {**common, "from_name": WORDS, "type": "textarea", "value": {**span, "text": [row["text"]]}}
    if "face" in row:
        who = f"{PurePath(str(record['file'])).stem} face {row['face']}"
        yield {**common, "from_name": SPEAKER, "type": "textarea", "value": {**span, "text": [who]}}


def label_studio_config(labels: Iterable[str]) -> str:
    """The labelling configuration (XML) for :func:`label_studio_tasks`: the video, its sound with regions, words, speaker."""
    names = [*labels, NEUTRAL]
    lines = [f"    <Label value={quoteattr(name)}/>" for name in dict.fromkeys(names)]
    return "\n".join(
        [
            "<View>",
            '  <Video name="video" value="$video" sync="lamb" muted="true"/>',
            f'  <Labels name="{LABELS}" toName="audio" choice="multiple">',
            *lines,
            "  </Labels>",
            '  <Audio name="audio" value="$video" sync="lamb"/>',
            f'  <TextArea name="{WORDS}" toName="audio" perRegion="true" editable="true" displayMode="region-list"/>',
            f'  <TextArea name="{SPEAKER}" toName="audio" perRegion="true" editable="true" maxSubmissions="1"/>',
            "</View>\n",
        ]
    )


def _utterances(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record's utterances, checked as far as they are used here."""
    try:
        if not isinstance(record["file"], str):
            raise TypeError(f"file {record['file']!r}")
        for row in record["utterances"]:
            start_ms, end_ms = _span_ms(row)
            texts = [row.get("text") or "", *row["labels"]]
            numbers = [row.get("face", 0), *row.get("probabilities", {}).values()]
            if not 0 <= start_ms <= end_ms or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{start_ms} to {end_ms} ms, {texts}")
            if not isinstance(row["labels"], list) or not all(isinstance(number, (int, float)) for number in numbers):
                raise TypeError(f"{row['labels']!r}, {numbers}")
        return list(record["utterances"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"Expected a file's record as lamb predict --json writes it ({str(record)[:60]!r} …) but got "
            f"{type(error).__name__}: {error}.",
            code="bad_results",
        ) from error


def _span_ms(row: dict[str, Any]) -> tuple[int, int]:
    return round(row["start_s"] * 1000), round(row["end_s"] * 1000)
