"""Corrections made in ELAN and Label Studio: what comes back as labels, and our own results there and back."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest

from data.annotations import elan_file, label_studio_config, label_studio_tasks, labels_of, read_documents
from data.errors import InputError
from data.sources import SOURCES, LabelledItem

Tier = tuple[str, str, list[tuple[int, int, str]]]


def write_eaf(
    path: Path, tiers: list[Tier], media: str = "./clip.mp4", header: str = "", units: str = "milliseconds"
) -> Path:
    """An .eaf as ELAN writes it, with a time slot of its own for every end."""
    slots, body = [], []
    for name, participant, rows in tiers:
        annotations = []
        for start_ms, end_ms, value in rows:
            n = len(slots)
            slots += [start_ms, end_ms]
            annotations.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="ts{n}" TIME_SLOT_REF2="ts{n + 1}">'
                f"<ANNOTATION_VALUE>{value}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
            )
        who = f' PARTICIPANT="{participant}"' if participant else ""
        body.append(f'<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="{name}"{who}>{"".join(annotations)}</TIER>')
    order = "".join(f'<TIME_SLOT TIME_SLOT_ID="ts{i}" TIME_VALUE="{ms}"/>' for i, ms in enumerate(slots))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n{header}<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0" VERSION="3.0">'
        f'<HEADER MEDIA_FILE="" TIME_UNITS="{units}"><MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/x/clip.mp4" '
        f'MIME_TYPE="video/mp4" RELATIVE_MEDIA_URL="{media}"/></HEADER><TIME_ORDER>{order}</TIME_ORDER>'
        f'{"".join(body)}<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true"/></ANNOTATION_DOCUMENT>'
    )
    (path.parent / "clip.mp4").write_bytes(b"x")
    return path


def said(items: list[LabelledItem]) -> list[tuple[Any, ...]]:
    return [(i.start_s, i.end_s, set(i.labels), i.speaker, i.text) for i in items]


# ---- ELAN ---------------------------------------------------------------------------------------------------------------


def test_elan_tier_per_label(tmp_path: Path) -> None:
    tiers: list[Tier] = [
        ("anger", "", [(0, 2000, "yes"), (5000, 6000, "0")]),
        ("sadness", "", [(20, 2010, "0.93"), (2000, 3000, "x")]),  # drawn a little beside
        ("neutral", "", [(3000, 4000, "")]),
        ("notes", "", [(0, 9000, "a nice one")]),
    ]
    write_eaf(tmp_path / "session" / "a.eaf", tiers)
    items = SOURCES.get("elan")(tmp_path)
    assert said(items) == [
        (0.0, 2.0, {"anger", "sadness"}, "", None),
        (2.0, 3.0, {"sadness"}, "", None),
        (3.0, 4.0, set(), "", None),
        (5.0, 6.0, set(), "", None),
    ]
    assert [item.id for item in items][:2] == ["elan/session/a/0-2000", "elan/session/a/2000-3000"]
    assert {item.path for item in items} == {tmp_path / "session" / "clip.mp4"}
    assert {item.split for item in items} == {None}


def test_elan_list_tiers_words_and_speakers(tmp_path: Path) -> None:
    tiers: list[Tier] = [
        ("Emotions", "Ann", [(0, 2000, "anger; sadness"), (4000, 5000, "neutral")]),
        ("Emotions@Bob", "", [(0, 2000, "joy")]),
        ("gesture", "", [(100, 900, "points")]),
        ("words", "Ann", [(0, 800, "go"), (900, 1900, "away"), (6000, 7000, "hm")]),
    ]
    path = write_eaf(tmp_path / "a.eaf", tiers)
    expected = [
        (0.0, 2.0, {"anger", "sadness"}, "Ann", "go away"),
        (0.0, 2.0, {"joy"}, "Bob", None),
        (4.0, 5.0, set(), "Ann", None),
    ]
    assert said(SOURCES.get("elan")(path)) == expected
    text = path.read_text().replace(
        'RELATIVE_MEDIA_URL="./clip.mp4"', 'RELATIVE_MEDIA_URL="./clip.mp4" TIME_ORIGIN="500"'
    )
    path.write_text(text)
    assert said(SOURCES.get("elan")(path)) == [(a + 0.5, b + 0.5, *rest) for a, b, *rest in expected]


def test_elan_words_that_no_label_touches(tmp_path: Path) -> None:
    """With a tier per label nothing holds there; with lists, which can say neutral, they are not labelled."""
    words: Tier = ("words", "", [(0, 800, "go"), (900, 1900, "away"), (6000, 7000, "hm")])
    path = write_eaf(tmp_path / "a.eaf", [("joy", "", [(0, 2000, "1")]), words])
    assert said(SOURCES.get("elan")(path)) == [(0.0, 2.0, {"joy"}, "", "go away"), (6.0, 7.0, set(), "", "hm")]
    write_eaf(path, [("labels", "", [(0, 2000, "joy")]), words])
    assert said(SOURCES.get("elan")(path)) == [(0.0, 2.0, {"joy"}, "", "go away")]


def test_elan_long_files(tmp_path: Path) -> None:
    """Four hours of utterances: every one is found, and not by comparing each with each."""
    spans = [(i * 2000, i * 2000 + 1500) for i in range(7200)]
    tiers: list[Tier] = [
        ("words", "", [(a, b, f"word{a}") for a, b in spans]),
        ("joy", "", [(a, b, "1") for a, b in spans[::2]]),
        ("fear", "", [(a + 10, b + 10, "1") for a, b in spans[::3]]),
    ]
    start_s = time.process_time()
    items = SOURCES.get("elan")(write_eaf(tmp_path / "a.eaf", tiers))
    assert time.process_time() - start_s < 20
    expected = [
        (a / 1000, b / 1000, {name for name, step in (("joy", 2), ("fear", 3)) if i % step == 0}, "", f"word{a}")
        for i, (a, b) in enumerate(spans)
    ]
    assert said(items) == expected


def test_elan_annotations_that_refer_to_others(tmp_path: Path) -> None:
    path = write_eaf(tmp_path / "a.eaf", [("words", "Ann", [(100, 200, "hi")])])
    refers = (
        '<TIER LINGUISTIC_TYPE_REF="ref" PARENT_REF="words" PARTICIPANT="Ann" TIER_ID="labels"><ANNOTATION>'
        '<REF_ANNOTATION ANNOTATION_ID="r1" ANNOTATION_REF="a0"><ANNOTATION_VALUE>fear</ANNOTATION_VALUE>'
        "</REF_ANNOTATION></ANNOTATION></TIER><LINGUISTIC_TYPE "
    )
    text = path.read_text().replace("<LINGUISTIC_TYPE ", refers)
    path.write_text(text)
    assert said(SOURCES.get("elan")(path)) == [(0.1, 0.2, {"fear"}, "Ann", "hi")]
    for wrong in (text.replace('ANNOTATION_REF="a0"', 'ANNOTATION_REF="r1"'), text.replace(' TIME_VALUE="100"', "")):
        path.write_text(wrong)
        with pytest.raises(InputError, match="Expected times for annotation"):
            SOURCES.get("elan")(path)


LAUGHS = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY file SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("header", [LAUGHS, OUTSIDE, "<!DOCTYPE ANNOTATION_DOCUMENT>"])
def test_elan_with_a_dtd_is_refused(header: str, tmp_path: Path) -> None:
    write_eaf(tmp_path / "a.eaf", [("anger", "", [(0, 1000, "&b;" if "lolz" in header else "1")])], header=header)
    with pytest.raises(InputError, match="document type declaration"):
        SOURCES.get("elan")(tmp_path)


def test_elan_wrong_input_is_one_line(tmp_path: Path) -> None:
    read = SOURCES.get("elan")
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert caught.value.code == "no_dataset"
    path = write_eaf(tmp_path / "a.eaf", [("anger", "", [(0, 1000, "1")])])
    good = path.read_text()
    for wrong in (good[:200], "<html></html>", "", good.replace('TIME_VALUE="0"', 'TIME_VALUE="soon"'), "<a>" * 5000):
        path.write_text(wrong)
        with pytest.raises(InputError, match=r"a\.eaf") as caught:
            read(tmp_path)
        assert caught.value.code == "bad_dataset"
    write_eaf(path, [("anger", "", [(0, 1000, "1")])], units="PAL-frames")
    with pytest.raises(InputError, match="PAL-frames"):
        read(tmp_path)
    write_eaf(path, [("anger", "", [])])
    with pytest.raises(InputError, match="Expected annotations"):
        read(tmp_path)
    path.write_text(good)
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(InputError, match=r"clip\.mp4.* is not there") as caught:
        read(tmp_path)
    assert caught.value.code == "no_dataset"


# ---- Label Studio -------------------------------------------------------------------------------------------------------


def region(kind: str, value: dict[str, Any], id_: str = "r1", name: str = "", **more: Any) -> dict[str, Any]:
    return {"id": id_, "from_name": name or kind, "to_name": "m", "type": kind, "value": value, **more}


def task(*annotations: dict[str, Any], key: int = 1, **data: Any) -> dict[str, Any]:
    return {"id": key, "data": {"video": "/data/upload/3/0a1b2c3d-clip.mp4", **data}, "annotations": list(annotations)}


def write_export(folder: Path, tasks: Any, media: tuple[str, ...] = ("clip.mp4",)) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "export.json").write_text(json.dumps(tasks))
    for name in media:
        (folder / name).write_bytes(b"x")
    return folder


def test_label_studio_regions_choices_and_words(tmp_path: Path) -> None:
    span = {"start": 1.5, "end": 3.25, "channel": 0}
    other = {"start": 4.0, "end": 5.0}
    results = [
        region("labels", {**span, "labels": ["anger"]}),
        region("textarea", {**span, "text": ["go", "away"]}),
        region("choices", {**span, "choices": ["sadness"]}),
        region("choices", {**span, "choices": ["Ann"]}, name="Speaker"),
        region("labels", {**other, "labels": ["neutral"]}, "r2"),
        region("labels", {**span, "labels": ["fear"]}, "r3"),  # the same interval again, by nobody
        region("number", {"number": 3}, "r4"),
        region("choices", {"choices": ["ignored where regions are"]}, "r5"),
    ]
    items = SOURCES.get("label-studio")(write_export(tmp_path, [task({"result": results})]))
    assert said(items) == [
        (1.5, 3.25, {"fear"}, "", None),
        (1.5, 3.25, {"anger", "sadness"}, "Ann", "go away"),
        (4.0, 5.0, set(), "", None),
    ]
    assert items[1].id == "label-studio/clip.mp4/1500-3250-Ann"
    assert items[1].path == tmp_path / "clip.mp4"


def test_label_studio_frames_need_a_rate(tmp_path: Path) -> None:
    frames = region(
        "timelinelabels", {"ranges": [{"start": 1, "end": 25}, {"start": 51, "end": 100}], "timelinelabels": ["joy"]}
    )
    expected = [(0.0, 1.0, {"joy"}, "", None), (2.0, 4.0, {"joy"}, "", None)]
    read = SOURCES.get("label-studio")
    with pytest.raises(InputError, match=r"frame rate for the frame ranges of task 1 in export\.json"):
        read(write_export(tmp_path, [task({"result": [frames]})]))
    assert said(read(write_export(tmp_path, [task({"result": [frames]}, fps=25)]))) == expected
    boxes = region("videorectangle", {"framesCount": 300, "duration": 12.0, "sequence": []}, "r2")
    assert said(read(write_export(tmp_path, [task({"result": [frames, boxes]})]))) == expected
    with pytest.raises(InputError, match="above 0"):
        read(write_export(tmp_path, [task({"result": [frames]}, fps=-25)]))


def test_label_studio_latest_annotation_counts(tmp_path: Path) -> None:
    def whole(label: str, when: str, **more: Any) -> dict[str, Any]:
        return {"result": [region("choices", {"choices": [label]})], "updated_at": when, **more}

    tasks = [
        task(whole("late", "2026-02-03T00:00:00Z"), whole("early", "2026-01-03T00:00:00Z")),
        task(whole("kept", "2026-01-01"), whole("cancelled", "2026-05-01", was_cancelled=True), key=2),
        task({"result": [], "updated_at": "2026-01-01"}, key=3),
        {**task(key=4), "predictions": [whole("predicted", "2026-01-01")]},
    ]
    items = SOURCES.get("label-studio")(write_export(tmp_path, tasks))
    assert said(items) == [(None, None, {"late"}, "", None), (None, None, {"kept"}, "", None)]
    assert [item.id for item in items] == ["label-studio/clip.mp4", "label-studio/clip.mp4#2"]
    with pytest.raises(InputError, match="Predictions do not count"):
        SOURCES.get("label-studio")(write_export(tmp_path, tasks[2:]))


def test_label_studio_json_min(tmp_path: Path) -> None:
    rows = [
        {
            "id": 1,
            "audio": "/data/local-files/?d=set/clip.mp4",
            "tone": [{"start": 0, "end": 1.5, "labels": ["joy", "fear"]}],
        },
        {"id": 2, "video": "s3://bucket/0a1b2c3d-my_clip_1.mp4?x=1", "emotion": "anger", "annotator": 1},
        {"id": 3, "video": "clip.mp4", "mood": {"choices": ["a", "b"]}, "updated_at": "2026-01-01"},
        {"id": 3, "video": "clip.mp4", "mood": {"choices": ["c"]}, "updated_at": "2026-01-02"},
    ]
    folder = write_export(tmp_path, rows, ("clip.mp4", "my clip (1).mp4"))
    items = SOURCES.get("label-studio")(folder / "export.json")
    assert said(items) == [
        (0.0, 1.5, {"joy", "fear"}, "", None),
        (None, None, {"anger"}, "", None),
        (None, None, {"c"}, "", None),
    ]
    assert items[1].path == folder / "my clip (1).mp4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "JSON"),
        ('{"id": 1}', "dict instead of a list"),
        ("[1]", "list instead of a list of tasks"),
        ('[{"id": 7, "data": []}]', "task 7 without data"),
        ('[{"id": 7, "data": {}, "annotations": [3]}]', "export"),
        ("[" * 100_000, "export"),
    ],
)
def test_label_studio_broken_json(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        SOURCES.get("label-studio")(tmp_path)
    assert caught.value.code == "bad_dataset"


@pytest.mark.parametrize(
    "value", [{"start": 2, "end": 1}, {"start": "x", "end": 1}, {"start": 0, "end": 1e999}, {"ranges": [{}]}]
)
def test_label_studio_broken_regions(value: dict[str, Any], tmp_path: Path) -> None:
    content = [task({"result": [region("labels", {**value, "labels": ["joy"]})]}, fps=25)]
    with pytest.raises(InputError, match=r"start and end of a region in task 1 in export\.json"):
        SOURCES.get("label-studio")(write_export(tmp_path, content))


def test_label_studio_without_recording(tmp_path: Path) -> None:
    content = [task({"result": [region("choices", {"choices": ["joy"]})]})]
    with pytest.raises(InputError, match=r"0a1b2c3d-clip\.mp4' is not there"):
        SOURCES.get("label-studio")(write_export(tmp_path, content, ()))
    (tmp_path / "export.json").unlink()
    with pytest.raises(InputError) as caught:
        SOURCES.get("label-studio")(tmp_path)
    assert caught.value.code == "no_dataset"


# ---- damaged files ------------------------------------------------------------------------------------------------------


def test_mutated_elan_files_are_read_or_refused(tmp_path: Path) -> None:
    random = Random(4)
    path = write_eaf(tmp_path / "a.eaf", [("words", "Ann", [(0, 800, "go")]), ("anger", "", [(0, 2000, "1")])])
    good, outcomes = path.read_bytes(), Counter[str]()
    for _ in range(400):
        content = bytearray(good)
        for _ in range(random.randint(1, 3)):
            k = random.randrange(len(content))
            content[k : k + random.randint(0, 20)] = good[random.randrange(len(good)) :][: random.randint(0, 20)]
        path.write_bytes(content)
        try:
            SOURCES.get("elan")(path)
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 300
    path.write_bytes(good.replace(b'encoding="UTF-8"', b'encoding="nosuch"'))
    with pytest.raises(InputError, match="unknown encoding"):
        SOURCES.get("elan")(path)


JUNK: list[Any] = [None, 3, -1.5, "x", [], {}, [None], {"a": 1}, True, 1e308, [[1]], float("nan"), float("inf")]


def mutated(content: Any, random: Random) -> Any:
    """A copy in which something is gone, or is something else."""
    content = json.loads(json.dumps(content))
    node = content
    while True:
        key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], (dict, list)) and node[key] and random.random() < 0.8:
            node = node[key]
        elif random.random() < 0.3:
            del node[key]
            return content
        else:
            node[key] = random.choice(JUNK)
            return content


@pytest.mark.parametrize("kind", ["tasks", "minimal", "results"])
def test_mutated_json_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    random = Random(5)
    span = {"start": 1, "end": 2}
    results = [
        region("labels", {**span, "labels": ["joy"]}),
        region("textarea", {**span, "text": ["go"]}),
        region("choices", {"choices": ["Ann"]}, name="speaker"),
        region("timelinelabels", {"ranges": [{"start": 1, "end": 25}], "timelinelabels": ["joy"]}, "r2"),
    ]
    minimal = {
        "id": 1,
        "audio": "clip.mp4",
        "t": [{**span, "labels": ["joy"]}],
        "emotion": "x",
        "m": {"choices": ["a"]},
    }
    good: Any = {"tasks": [task({"result": results}, fps=25)], "minimal": [minimal], "results": document(UTTERANCES)}[
        kind
    ]
    outcomes = Counter[str]()
    for _ in range(400):
        folder = write_export(tmp_path, mutated(good, random))
        try:
            if kind == "results":
                for whole in read_documents(folder):
                    label_studio_tasks([whole])
                    for record in whole["files"]:
                        elan_file(record, labels_of(whole))
            else:
                SOURCES.get("label-studio")(folder)
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 50


# ---- there and back -----------------------------------------------------------------------------------------------------

LABELS = ("anger", "happiness", "sadness")


def utterance(start_s: float, end_s: float, labels: list[str], text: str, **more: Any) -> dict[str, Any]:
    probabilities = {name: 0.93 if name in labels else 0.021 for name in LABELS}
    return {"start_s": start_s, "end_s": end_s, "text": text, "probabilities": probabilities, "labels": labels, **more}


def document(utterances: list[dict[str, Any]], labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    failed = {"file": "bad.mp4", "outcome": "failed", "utterances": []}
    good = {"file": "videos/my clip & more.mp4", "outcome": "ok", "duration_s": 19.0, "utterances": utterances}
    return {"schema": 1, "checkpoint": {"labels": list(labels), "fingerprint": "f" * 64}, "files": [good, failed]}


UTTERANCES = [
    utterance(0.35, 4.1, ["anger", "sadness"], 'It was <the> "best" of times & the \x07worst'),
    utterance(4.1, 6.333, [], "of times"),
    utterance(6.333, 7.0, ["happiness"], ""),
]
BACK = [
    (0.35, 4.1, {"anger", "sadness"}, "", 'It was <the> "best" of times & the worst'),
    (4.1, 6.333, set(), "", "of times"),
    (6.333, 7.0, {"happiness"}, "", None),
]


def elan_back(whole: dict[str, Any], folder: Path) -> list[LabelledItem]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my clip & more.mp4").write_bytes(b"x")
    contents = [elan_file(record, labels_of(whole)) for record in whole["files"]]
    assert contents[0] is not None
    assert contents[1] is None
    (folder / "out.eaf").write_bytes(contents[0])
    return SOURCES.get("elan")(folder)


def test_results_to_elan_and_back(tmp_path: Path) -> None:
    items = elan_back(document(UTTERANCES), tmp_path)
    assert said(items) == BACK
    assert {item.path for item in items} == {tmp_path / "my clip & more.mp4"}
    tree = ElementTree.parse(tmp_path / "out.eaf")  # noqa: S314 (our own file)
    assert [tier.get("TIER_ID") for tier in tree.iter("TIER")] == ["words", *LABELS]
    refs = [one.get(ref) for one in tree.iter("ALIGNABLE_ANNOTATION") for ref in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")]
    slots = [int(slot.get("TIME_VALUE", "")) for slot in tree.iter("TIME_SLOT")]
    assert len(set(refs)) == len(refs) == len(slots)  # ELAN moves all annotations that share a slot
    assert slots == sorted(slots)
    values = [one.text for one in tree.iterfind("TIER[@TIER_ID='anger']//ANNOTATION_VALUE")]
    assert values == ["0.93"]


def test_results_of_several_faces_to_elan_and_back(tmp_path: Path) -> None:
    faces = [utterance(0.0, 2.0, ["anger"], "hi", face=0), utterance(0.0, 2.0, ["sadness"], "hi", face=1)]
    assert said(elan_back(document(faces), tmp_path)) == [
        (0.0, 2.0, {"anger"}, "my clip & more face 0", "hi"),
        (0.0, 2.0, {"sadness"}, "my clip & more face 1", "hi"),
    ]


def test_labels_that_tiers_cannot_be_called(tmp_path: Path) -> None:
    labels = ("speech", "a@b")
    rows = [{**utterance(0.0, 2.0, ["speech", "a@b"], "hi"), "probabilities": {}}, utterance(2.0, 3.0, [], "")]
    assert said(elan_back(document(rows, labels), tmp_path)) == [
        (0.0, 2.0, {"speech", "a@b"}, "", "hi"),
        (2.0, 3.0, set(), "", None),
    ]
    with pytest.raises(InputError, match="tiers can be named"):
        elan_file(document(rows)["files"][0], ("words", "a; b"))


def test_elan_files_open_in_pympi(tmp_path: Path) -> None:
    pympi = pytest.importorskip("pympi", reason="pympi-ling is not installed")
    elan_back(document(UTTERANCES), tmp_path)
    eaf = pympi.Elan.Eaf(str(tmp_path / "out.eaf"))
    assert list(eaf.get_tier_names()) == ["words", *LABELS]
    assert eaf.get_annotation_data_for_tier("sadness") == [(350, 4100, "0.93")]
    assert [row[:2] for row in eaf.get_annotation_data_for_tier("words")] == [(350, 4100), (4100, 6333), (6333, 7000)]
    eaf.add_annotation("happiness", 4100, 6333, "1")
    eaf.remove_annotation("sadness", 1000)
    eaf.to_file(str(tmp_path / "out.eaf"))
    corrected = said(SOURCES.get("elan")(tmp_path))
    assert corrected == [(0.35, 4.1, {"anger"}, "", BACK[0][4]), (4.1, 6.333, {"happiness"}, "", "of times"), BACK[2]]


def test_results_to_label_studio_and_back(tmp_path: Path) -> None:
    faces = [utterance(8.0, 9.0, ["anger"], "hi", face=0), utterance(8.0, 9.0, ["sadness"], "hi", face=1)]
    tasks = label_studio_tasks([document([*UTTERANCES, *faces])])
    assert len(tasks) == 1
    assert tasks[0]["data"]["video"] == "/data/local-files/?d=videos/my%20clip%20%26%20more.mp4"
    prediction = tasks[0]["predictions"][0]
    accepted = [{"id": 5, "data": tasks[0]["data"], "annotations": [{"result": prediction["result"]}]}]
    items = SOURCES.get("label-studio")(
        write_export(tmp_path, json.loads(json.dumps(accepted)), ("my clip & more.mp4",))
    )
    plain = [(*row[:4], row[4] and row[4].replace("the worst", "the \x07worst")) for row in BACK]
    assert said(items) == [
        *plain,
        (8.0, 9.0, {"anger"}, "my clip & more face 0", "hi"),
        (8.0, 9.0, {"sadness"}, "my clip & more face 1", "hi"),
    ]
    config = ElementTree.fromstring(label_studio_config((*LABELS, 'a "b" <c>')))  # noqa: S314
    assert [label.get("value") for label in config.iter("Label")] == [*LABELS, 'a "b" <c>', "neutral"]
    controls = {element.get("name") for element in config.iter() if element.get("toName") == "audio"}
    assert {result["from_name"] for result in prediction["result"]} == controls
    assert {result["to_name"] for result in prediction["result"]} <= {e.get("name") for e in config.iter("Audio")}


def test_documents_are_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "a.json").write_text(json.dumps(document(UTTERANCES)))
    assert [labels_of(whole) for whole in read_documents(tmp_path)] == [LABELS]
    assert len(list(read_documents(tmp_path / "json" / "a.json"))) == 1
    for wrong in ("{}", "[]", '{"schema": 2, "files": []}', "nothing"):
        (tmp_path / "json" / "b.json").write_text(wrong)
        with pytest.raises(InputError, match=r"b\.json"):
            list(read_documents(tmp_path))
    with pytest.raises(InputError, match="there is none"):
        list(read_documents(tmp_path / "gone"))
    for row in (
        {"start_s": 1.0},
        {"start_s": 2.0, "end_s": 1.0, "labels": []},
        {"start_s": 1, "end_s": 2, "labels": [3]},
    ):
        with pytest.raises(InputError, match="Expected a file's record"):
            elan_file(document([row])["files"][0], LABELS)
