"""The parts of a dataset's recordings: extracted by workers, kept in a cache, read back one file at a time.

In: items with paths. Out: for each file its speech, acoustic and facial parts (``pipeline/parts.py``), or why it has none.

    extraction = Extraction(root, Path("mine.cache"), extractors, ("text", "audio"), n_workers=2, report)
    lengths, unusable = extraction.look(items)               # of the headers: before anything is extracted
    failed = extraction.run(items)
    tracks, words = extraction.tracks(items[0].path)

The cache has the layout and the addresses of `lamb label`'s, so the results folder of such a run serves as one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data.clip import Word
from data.errors import InputError, LambError
from data.sources import LabelledItem
from data.spec import Modality
from data.track import FeatureTrack
from extractors.weights import sha256_file
from pipeline.discovery import Discovery, Found
from pipeline.folder import FolderOptions, FolderRun, item_of, usual_limits
from pipeline.parts import AcousticPart, FacialPart, Part, SpeechPart, pack, unpack
from pipeline.stages import Opened, Plan, StageRunner, Work
from pipeline.store import LocalStore
from pipeline.survey import examine
from pipeline.video import Extractors

MANY = 500  # recordings whose headers take seconds to read
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
STAGES: dict[Modality, tuple[Work, ...]] = {
    "text": ("speech",),
    "audio": ("speech", "acoustic"),  # speech says where there is a voice
    "visual": ("facial",),
}


@dataclass(frozen=True)
class BuildReport:
    """Where a build says how far it is: a line of text; ``bars`` False: no progress of single files."""

    say: Callable[[str], None]
    bars: bool = True


class Extraction:
    """Extraction of many files into one cache, for the wanted modalities. ``root`` is the folder that names are below."""

    def __init__(
        self,
        root: Path,
        cache: Path,
        extractors: Extractors,
        modalities: Sequence[Modality],
        n_workers: int,
        report: BuildReport,
    ) -> None:
        self.root, self.cache, self.extractors = root, cache, extractors
        self.modalities, self.n_workers, self.report = tuple(modalities), n_workers, report
        wanted: set[Work] = {stage for name in modalities for stage in STAGES[name]}
        if "visual" in modalities and extractors.settings.face == "speaker":
            wanted.add("speech")
        self.plan = Plan(extractors, "parts", stages=tuple(wanted))
        self.contents: dict[Path, str] = {}  # sha256 of every file that could be used
        self._opened: dict[Path, Opened] = {}

    # ---- before -------------------------------------------------------------------------------------------------------------

    def look(self, items: Iterable[LabelledItem]) -> tuple[dict[Path, float], dict[Path, str]]:
        """Length in seconds of each recording, by its header; and what is wrong with those that cannot be used."""
        paths = [path for path in _paths(items) if path.suffix.lower() not in PICTURES]
        if len(paths) >= MANY:
            self.report.say(f"looking at {len(paths):,} recordings")
        lengths: dict[Path, float] = {}
        unusable: dict[Path, str] = {}
        for path, found in zip(paths, examine(paths), strict=True):
            if isinstance(found, str):
                unusable[path] = found
            elif found is not None:
                lengths[path] = found
        return lengths, unusable

    # ---- the work -----------------------------------------------------------------------------------------------------------

    def run(self, items: Iterable[LabelledItem]) -> dict[Path, str]:
        """Extract what the cache does not have; what is wrong with files that could not be used.

        Raises InputError (output_exists, output_unwritable, disk_full), WeightsError.
        """
        paths = _paths(items)
        recordings = [path for path in paths if path.suffix.lower() not in PICTURES]
        failed = self._run_workers(recordings) if recordings else {}
        for path in paths:
            if path.suffix.lower() in PICTURES:
                with _noted(failed, path):
                    self._picture(path)
        return failed

    def _run_workers(self, paths: list[Path]) -> dict[Path, str]:
        from pipeline.folder_report import plan_lines, progress, survey_run

        self.extractors.prepare(None if self.plan.stages != ("facial",) else "facial")
        by_name = {os.path.relpath(path, self.root): path for path in paths}
        settings = self.extractors.settings
        start = {
            "output": os.fspath(self.cache.absolute()),
            "settings": settings.model_dump(mode="json"),
            "product": "parts",
            "checkpoint": None,
            "fingerprint": "",
            "only": None,
            "tables": False,
            "stages": list(self.plan.stages),
        }
        gpu = settings.compute_device == "cuda"
        options = FolderOptions(self.root, self.cache, self.n_workers, gpu=gpu, **usual_limits(settings))
        run = FolderRun(options, self.plan, start, None, find=lambda: _found(by_name))
        plan = survey_run(run, run.scan())
        for line in plan_lines(plan):
            self.report.say(line)
        with progress(plan, not self.report.bars, None) as (report, look):
            run.work(report, look)
        failed: dict[Path, str] = {}
        for record in run.records():
            path = by_name[record["file"]]
            if record["error"] is not None:
                failed[path] = record["error"]["message"]
        for file in run.found.files:
            opened = run.books.opened(item_of(file))
            if opened is not None and file.path not in failed:
                self._opened[file.path] = opened[0]
                self.contents[file.path] = opened[0].sha256
            elif file.path not in failed:
                failed[file.path] = "Expected the file to be extracted but it was not."
        return failed

    def _picture(self, path: Path) -> FacialPart:
        """The facial part of a photograph, shown as a short clip. Raises LambError."""
        from pipeline.starter_data import still_track

        digest = sha256_file(path)
        key = f"{digest}-{self.extractors.specs['visual'].fingerprint()}"
        store, place = LocalStore(self.cache), f"cache/picture/{key[:2]}/{key}.safetensors"
        content = store.read(place)
        self.contents[path] = digest
        if content is not None:
            with suppress(InputError):
                part, _ = unpack(content)
                assert isinstance(part, FacialPart)
                return part
        part = FacialPart(still_track(LabelledItem("", None, (), path=path), self.extractors.settings))
        store.write(place, pack(part))
        return part

    # ---- after --------------------------------------------------------------------------------------------------------------

    @cached_property
    def _runner(self) -> StageRunner:
        return StageRunner(self.plan, self.extractors, LocalStore(self.cache))

    def tracks(self, path: Path) -> tuple[dict[Modality, FeatureTrack], tuple[Word, ...], float]:
        """Tracks of the whole file, empty where they were not wanted; the words heard; its length in seconds."""
        specs = self.extractors.specs
        speech = SpeechPart(reasons=("not_extracted",))
        acoustic = AcousticPart(FeatureTrack.empty(specs["audio"], "not_extracted"))
        facial = FacialPart(FeatureTrack.empty(specs["visual"], "not_extracted"))
        parts: list[Part] = []
        length_s = 0.0
        if path.suffix.lower() in PICTURES:
            parts = [self._picture(path)]
        else:
            opened = self._opened[path]
            length_s = opened.info.duration_s
            parts = [self._runner.part(stage, opened)[0] for stage in self.plan.stages]
        for part in parts:
            if isinstance(part, SpeechPart):
                speech = part
            elif isinstance(part, AcousticPart):
                acoustic = part
            else:
                facial = part
        tracks, _ = self.extractors.tracks_of(speech, acoustic, facial)
        for name in tracks:
            if name not in self.modalities:
                tracks[name] = FeatureTrack.empty(specs[name], "not_extracted")
        ends_s = [float(track.end_s[-1]) for track in tracks.values() if len(track)]
        return tracks, speech.words, length_s or max(ends_s, default=0.0)


def _paths(items: Iterable[LabelledItem]) -> list[Path]:
    """Each file once, in order."""
    return list(dict.fromkeys(item.path for item in items if item.path is not None))


def _found(by_name: dict[str, Path]) -> Discovery:
    files = []
    for name, path in by_name.items():
        try:
            seen = os.stat(path)
            files.append(Found(name, path, seen.st_size, seen.st_mtime_ns, seen.st_ino))
        except OSError:  # gone since the table was read: opening it says so
            files.append(Found(name, path, 0, 0, 0))
    return Discovery(tuple(files), 0, 0)


class _noted(suppress):  # noqa: N801
    """Keep the message of a LambError about a file."""

    def __init__(self, failed: dict[Path, str], path: Path) -> None:
        super().__init__(LambError)
        self.failed, self.path = failed, path

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, LambError):
            self.failed[self.path] = str(error)
        return isinstance(error, LambError)
