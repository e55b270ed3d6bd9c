"""The work on one file as stages whose results are kept: what each depends on, and how it is done.

In: a file. Out: results in a store, addressed by content and by everything else they depend on. A changed setting or other
weights change the address of what depends on them and of nothing else; a renamed file has the addresses it had.

    runner = StageRunner(plan, extractors, store, load_predictor)
    opened = runner.open(item)                               # content digest, length, streams
    for stage in plan.stages: runner.run(stage, item, opened)
    record = runner.finish(Job(item, opened))                # the file's record in docs/output.md, or its features

The order of the first three stages does not matter (but the faces of ``--face speaker`` wait for the speech), and each may
run in another process or on another machine. :mod:`pipeline.folder` runs them on one machine, :mod:`pipeline.cluster` on many.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from data.errors import InputError, LambError
from extractors.media import MediaInfo
from pipeline.events import Notify, ignore
from pipeline.extract import outcome_record, write_features
from pipeline.parts import AcousticPart, FacialPart, Part, SpeechPart, pack, unpack
from pipeline.predict import Predictor, unforeseen
from pipeline.store import LocalStore, Store, unwritable
from pipeline.video import Analysis, Extractors, Sound, Stage

if TYPE_CHECKING:
    from pipeline.settings import PipelineSettings

T = TypeVar("T")
Product = Literal["labels", "features", "parts"]
Work = Literal["open", "speech", "acoustic", "facial", "finish"]
PARTS: tuple[Work, ...] = ("speech", "acoustic", "facial")
OF_STAGE: dict[Stage, Work] = {"text": "speech", "acoustic": "acoustic", "facial": "facial"}
VERSIONS: dict[str, int] = {"speech": 2, "acoustic": 2, "facial": 1, "labels": 1}
"""Raise one when what a stage returns changes for a reason that no setting, spec or digest shows."""

# What cannot be otherwise for the same bytes: such a failure is an outcome and is not tried again.
FINAL = frozenset(
    "empty not_a_file too_large too_long frame_too_large playlist truncated not_media no_streams no_content".split()
)
LONGEST_NAME, LONGEST_STEM = 255, 200  # bytes, of one part of a path
CUTTING = (
    "merge_gap_s", "min_sentence_s", "max_utterance_s", "window_s", "min_window_s", "min_face_coverage", "speech_margin_s",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A file of a run: its name there, where it is read, and what it looked like when it was listed."""

    name: str
    path: str
    size: int
    mtime_ns: int
    inode: int

    def check(self) -> None:
        """Raise InputError (vanished, changed) unless the file is still the one that was listed."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError as error:
            if os.path.lexists(self.path):  # a link to nothing: opening it says so
                return
            raise InputError(f"Expected {self.name!r} to stay but it is gone.", code="vanished") from error
        except OSError as error:
            raise InputError(f"Could not read {self.name!r}: {error.strerror or error}.", code="unreadable") from error
        regular = (found.st_size, found.st_mtime_ns, found.st_ino) == (self.size, self.mtime_ns, self.inode)
        if not regular and self.size:  # size 0: a pipe, a socket, an empty file; opening it says so
            raise InputError(
                f"Expected {self.name!r} to stay as it was but it changed while it was read.",
                code="changed",
                remedy="Run the same command again when it is complete.",
            )


@dataclass(frozen=True)
class Opened:
    """What opening a file told: sha256 of its content and what is in it."""

    sha256: str
    info: MediaInfo

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; where the file lies is left out."""
        return {"sha256": self.sha256, "info": {k: v for k, v in asdict(self.info).items() if k != "path"}}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], path: str) -> Opened:
        """Raises KeyError or TypeError for another dictionary."""
        return cls(record["sha256"], MediaInfo(path=Path(path), **record["info"]))


@dataclass(frozen=True)
class Job:
    """A file at a stage after the first; ``open_s`` is what opening it took."""

    item: Item
    opened: Opened
    open_s: float = 0.0


class Plan:
    """Which stages a product needs and where their results are kept.

    ``product`` is "labels" (needs the fingerprint of a checkpoint), "features", or "parts": what the stages give and no more,
    for who puts it together himself; ``stages`` says which. ``only`` is one stage of features alone.
    """

    def __init__(
        self,
        extractors: Extractors,
        product: Product,
        checkpoint: str = "",
        only: Stage | None = None,
        tables: bool = False,
        stages: Sequence[Work] = PARTS,
    ) -> None:
        self.product, self.checkpoint, self.only, self.tables = product, checkpoint, only, tables
        self.settings: PipelineSettings = extractors.settings
        self.stages: tuple[Work, ...] = (OF_STAGE[only],) if only else tuple(name for name in PARTS if name in stages)
        self._depends = {name: _depends_on(extractors, name) for name in self.stages}
        self._text = extractors.specs["text"].fingerprint() if "speech" in self.stages else ""

    def waits_for(self, stage: Work) -> tuple[Work, ...]:
        """The stages that must be done before this one."""
        if stage == "finish":
            return self.stages
        follows_speaker = stage == "facial" and self.settings.face == "speaker" and not self.only
        return ("speech",) if follows_speaker else ()

    def place(self, stage: Work, opened: Opened) -> str:
        """Name in the store of a stage's result for this content."""
        key = self._key(stage, opened.sha256)
        kind = self.product if stage == "finish" else stage
        return f"cache/{kind}/{key[:2]}/{key}" + (".json" if stage == "finish" else ".safetensors")

    def _key(self, stage: Work, content: str) -> str:
        upstream = {name: self._key(name, content) for name in self.waits_for(stage)}
        if stage == "finish" and self.product == "parts":
            depends: dict[str, Any] = {"product": self.product}
        elif stage == "finish":
            depends = {"product": self.product, "text": self._text}
            if not self.only:
                depends |= {name: getattr(self.settings, name) for name in CUTTING}
            if self.product == "labels":
                depends |= {"version": VERSIONS["labels"], "checkpoint": self.checkpoint}
            else:
                depends |= {"only": self.only, "tables": self.tables}
        else:
            depends = {"version": VERSIONS[stage], **self._depends[stage]}
        whole = {"content": content, "stage": stage, "depends": depends, "upstream": upstream}
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def _depends_on(extractors: Extractors, stage: Work) -> dict[str, Any]:
    """Everything but the content and the stages before that a stage's result depends on."""
    from extractors.speech import locate

    settings = extractors.settings
    found: dict[str, Any] = {"max_duration_s": settings.max_duration_s}
    if stage == "speech":
        speech = extractors.speech_settings
        found |= {name: getattr(speech, name) for name in ("engine", "model", "language", "beam_size", "device")}
        found["weights"] = locate(speech).digest
    elif stage == "acoustic":
        found["spec"] = extractors.specs["audio"].fingerprint()
    else:
        face = extractors.face_settings
        found |= {
            "spec": extractors.specs["visual"].fingerprint(),
            "follow": face.follow,
            "max_faces": face.max_faces,
            "max_rate_hz": settings.max_rate_hz,
            "max_side": extractors.limits.max_side,
        }
    return found


class StageRunner:
    """Runs stages; models are loaded when a stage first needs them and stay. One per process."""

    def __init__(
        self, plan: Plan, extractors: Extractors, store: Store, load: Callable[[], Predictor] | None = None
    ) -> None:
        self.plan, self.extractors, self.store, self._load = plan, extractors, store, load

    @cached_property
    def predictor(self) -> Predictor:
        """The model, loaded when the first file is finished."""
        assert self._load is not None
        return self._load()

    def open(self, item: Item, notify: Notify = ignore) -> Opened:
        """Read the whole file once for its digest, and its headers. Raises InputError."""
        item.check()
        info, digest = self.extractors.open(Path(item.path), notify)
        item.check()
        return Opened(digest, info)

    def run(self, stage: Work, item: Item, opened: Opened, notify: Notify = ignore) -> float:
        """Make one stage's result and keep it; returns the seconds it took. Raises LambError."""
        started = time.monotonic()
        item.check()
        part = self._part(stage, opened, notify)
        item.check()
        seconds = time.monotonic() - started
        self.store.write(self.plan.place(stage, opened), pack(part, seconds))
        return seconds

    def run_many(self, stage: Work, jobs: Sequence[Job], notify: Notify = ignore) -> list[float | Exception]:
        """:meth:`run` for several files together where that is faster: speech on a GPU. Seconds are each file's share; what
        goes wrong with one file is returned in its place."""
        if stage != "speech" or len(jobs) < 2:
            return [_caught(lambda job=job: self.run(stage, job.item, job.opened, notify)) for job in jobs]
        started, failed = time.monotonic(), {}
        with contextlib.ExitStack() as stack:
            sounds: dict[int, Sound] = {}
            for number, job in enumerate(jobs):
                try:
                    job.item.check()
                    sounds[number] = stack.enter_context(self.extractors.sound(job.opened.info, "speech"))
                except Exception as error:
                    failed[number] = error
            parts = dict(zip(sounds, self.extractors.speech_of_many(list(sounds.values())), strict=True))
        seconds = (time.monotonic() - started) / len(jobs)

        def keep(number: int, job: Job) -> float:
            if number in failed:
                raise failed[number]
            job.item.check()
            self.store.write(self.plan.place(stage, job.opened), pack(parts[number], seconds))
            return seconds

        return [_caught(lambda number=number, job=job: keep(number, job)) for number, job in enumerate(jobs)]

    def _part(self, stage: Work, opened: Opened, notify: Notify) -> Part:
        extractors, info = self.extractors, opened.info
        if stage == "speech":
            with extractors.sound(info, "speech") as sound:
                return extractors.speech(sound, info, notify)
        if stage == "acoustic":
            with extractors.sound(info, "native") as sound:
                return extractors.acoustic(sound, info, notify)
        loudness = None
        if "speech" in self.plan.waits_for("facial"):
            speech, _ = self.part("speech", opened)
            assert isinstance(speech, SpeechPart)
            loudness = speech.loudness
        return extractors.facial(info, loudness, notify)

    def part(self, stage: Work, opened: Opened) -> tuple[Part, float]:
        """A kept result and the seconds it took to make. Raises InputError (damaged) if it is missing or no longer whole."""
        content = self.store.read(self.plan.place(stage, opened))
        if content is None:
            raise InputError(f"Expected the kept result of {stage} but it is gone.", code="damaged")
        return unpack(content)

    def finish(self, job: Job, notify: Notify = ignore) -> dict[str, Any]:
        """Put the parts together and keep the record of the file (without its name); for features, write their folder.

        Raises LambError.
        """
        record = self.finish_many([job], notify)[0]
        if isinstance(record, Exception):
            raise record
        return record

    def finish_many(self, jobs: Sequence[Job], notify: Notify = ignore) -> list[dict[str, Any] | Exception]:
        """:meth:`finish` of several files, whose utterances go through the model together; errors in their places."""
        if self.plan.product == "parts":
            return [_caught(lambda job=job: self._finish_parts(job)) for job in jobs]
        started = time.monotonic()
        analysed = [_caught(lambda job=job: self._analysis(job)) for job in jobs]
        good = [
            (Path(job.item.name), found[0])
            for job, found in zip(jobs, analysed, strict=True)
            if isinstance(found, tuple)
        ]
        if self.plan.product == "labels":
            records = iter(self.predictor.records(good, notify) if good else ())
        else:
            records = iter([outcome_record(path, analysis) | {"error": None} for path, analysis in good])
        seconds = (time.monotonic() - started) / len(jobs)

        def keep(job: Job, found: tuple[Analysis, dict[str, float]] | Exception) -> dict[str, Any]:
            if isinstance(found, InputError) and found.code in FINAL:
                opened = job.opened
                record = failure(job.item, found) | {"sha256": opened.sha256, "duration_s": opened.info.duration_s}
                record["seconds"] = {"open": job.open_s, "finish": seconds}
            elif isinstance(found, Exception):
                raise found
            else:
                analysis, made_s = found
                record = next(records)
                record["seconds"] = made_s | {"finish": seconds}
                if self.plan.product == "features":
                    self._publish_features(job.item, analysis, self.plan.place("finish", job.opened))
            del record["file"]
            self.store.write(self.plan.place("finish", job.opened), _json(record))
            return record

        return [
            _caught(lambda job=job, found=found: keep(job, found)) for job, found in zip(jobs, analysed, strict=True)
        ]

    def _finish_parts(self, job: Job) -> dict[str, Any]:
        """The record of a file whose parts are all there."""
        started = time.monotonic()
        kept = {stage: self.part(stage, job.opened) for stage in self.plan.stages}
        reasons = list(dict.fromkeys(reason for part, _ in kept.values() for reason in part.reasons))
        info = job.opened.info
        record = {
            "sha256": job.opened.sha256,
            "duration_s": round(info.duration_s, 3),
            "outcome": "partial" if reasons else "ok",
            "reasons": reasons,
            "error": None,
            "seconds": {"open": job.open_s, **{stage: made_s for stage, (_, made_s) in kept.items()}},
        }
        record["seconds"]["finish"] = time.monotonic() - started
        self.store.write(self.plan.place("finish", job.opened), _json(record))
        return record

    def _analysis(self, job: Job) -> tuple[Analysis, dict[str, float]]:
        """A file's parts put together, and the seconds of each stage."""
        item, opened = job.item, job.opened
        info = replace(opened.info, path=Path(item.name))
        kept = {stage: self.part(stage, opened) for stage in self.plan.stages}
        seconds = {"open": job.open_s, **{stage: made_s for stage, (_, made_s) in kept.items()}}
        parts = [part for part, _ in kept.values()]
        if self.plan.only:
            return self.extractors.assemble_one(info, opened.sha256, parts[0]), seconds
        speech, acoustic, facial = parts
        assert isinstance(speech, SpeechPart)
        assert isinstance(acoustic, AcousticPart)
        assert isinstance(facial, FacialPart)
        return self.extractors.assemble(Path(item.name), info, opened.sha256, speech, acoustic, facial), seconds

    def _publish_features(self, item: Item, analysis: Analysis, place: str) -> None:
        assert isinstance(self.store, LocalStore)
        target = features_name(item.name)
        try:
            with self.store.scratch() as scratch:
                part = scratch / "part"
                part.mkdir()
                write_features(analysis, Path(item.name), part, self.plan.tables, made_from=place)
                self.store.publish_folder(part, target)
        except OSError as error:
            raise unwritable(self.store.folder / target, error) from error


def _caught(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except Exception as error:
        return error


def features_name(name: str) -> str:
    """Name in the store of the folder of a file's features."""
    return f"features/{fitting(name)}"


def fitting(name: str, more: str = "") -> str:
    """``name`` + ``more`` with a last part that a file system takes: shortened, with a digest, where it is too long."""
    folder, slash, last = name.rpartition("/")
    if len(os.fsencode(last + more)) > LONGEST_NAME:
        last = os.fsencode(last)[:LONGEST_STEM].decode("utf-8", "ignore") + "." + digest(name)[:16]
    return folder + slash + last + more


def digest(name: str) -> str:
    """sha256 (hex) of a name, also of one that is not UTF-8."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def failure(item: Item, error: Exception) -> dict[str, Any]:
    """The record of a file that could not be used, wherever it was read from."""
    from pipeline.predict import failed_record

    code, line = (error.code, str(error)) if isinstance(error, LambError) else unforeseen(Path(item.name), error)
    for path in (item.path, str(Path(item.path).absolute())):
        line = line.replace(repr(path), repr(item.name))
    return failed_record(Path(item.name), code, line)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False).encode()
