"""py-feat's weight files: which there are, under what licences, where they lie, and their download when asked.

In: a detector ("v1" or "v2") and perhaps a folder of the user's. Out: the path of every file, where they came from, one
digest. One order as for all weights: path given → cache → py-feat's own folder → download (only when asked). A folder may be
laid out as py-feat's cache is (``models--py-feat--X/snapshots/<commit>/file``) or have one folder a repository (``X/file``).

    found = find("v1", None)                     # PyFeatWeights(files, source)
    found.digest                                 # goes into FeatureSpec.weights
    fetch("v1", say=print, accept=True)          # the hub, with its commit and sha256
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ToolError, WeightsError
from extractors.downloads import download
from extractors.weights import cache_dir, check_sha256, sha256_file

OWNER = "py-feat"
NAMES = {"v1": "py-feat", "v2": "py-feat-v2"}  # detector → name for people: of the backend and of its weights
DETECTORS = {name: detector for detector, name in NAMES.items()}
HUB = "https://huggingface.co"
SUMS = "sha256.json"  # beside what was downloaded: what the hub said the files hash to
MAX_FILE_BYTES, MAX_LISTING_BYTES = 2 << 30, 4 << 20
COMMIT = re.compile(r"[0-9a-f]{40}")  # becomes the name of a folder
FILE_LIMIT_S, LISTING_LIMIT_S = 3600.0, 60.0


@dataclass(frozen=True)
class HubFile:
    """One file of a repository of py-feat's on the hub; ``what`` and ``licence`` are for people."""

    repository: str
    name: str
    what: str
    licence: str

    @property
    def key(self) -> str:
        return f"{OWNER}/{self.repository}/{self.name}"


# Licences as py-feat 2.1.5 states them (LICENSES/PYFEAT-V1.md and PYFEAT-V2.md in its wheel).
_DETECTOR = HubFile(
    "retinaface_r34", "model.safetensors", "face detector", "card says MIT; trained on WIDER FACE (non-commercial)"
)
_LANDMARKS = "68 landmarks", "no explicit grant for the weights"
_UNITS = "20 action units", "labelled MIT; training data for research only"
_EMOTIONS = "7 emotions", "MIT; trained on FER-2013"
_POSE = "head pose", "student of img2pose (CC BY-NC 4.0) on CelebV-HQ (non-commercial research)"
_MULTITASK = "action units, emotions, pose, blendshapes", "non-commercial research (backbone CC BY-NC 4.0, Gaze360)"
FILES: dict[str, tuple[HubFile, ...]] = {
    "v1": (
        _DETECTOR,
        HubFile("mobilefacenet", "mobilefacenet_model_best.pth.tar", *_LANDMARKS),
        HubFile("xgb_au", "xgb_au_classifier_v2.skops", *_UNITS),
        HubFile("resmasknet", "config.json", *_EMOTIONS),
        HubFile("resmasknet", "ResMaskNet_Z_resmasking_dropout1_rot30.pth", *_EMOTIONS),
        HubFile("pose_mlp_v2", "pose_mlp_v2.safetensors", *_POSE),
        HubFile("pose_mlp_v2", "pose_mlp_v2.json", *_POSE),
    ),
    "v2": (_DETECTOR, HubFile("face_multitask_v2", "face_multitask_v28.safetensors", *_MULTITASK)),
}


@dataclass(frozen=True)
class PyFeatWeights:
    """Weights of one detector on disk: (key, path) of each file, and which step found them."""

    detector: str
    files: tuple[tuple[str, Path], ...]
    source: str

    @property
    def digest(self) -> str:
        """One sha256 over all files. Raises WeightsError for a file that is not what was downloaded."""
        lines = []
        for key, path in self.files:
            changed = path.stat()
            came = _sha256(path, changed.st_size, changed.st_mtime_ns)
            if self.source == "cache" and (expected := _sums().get(key)) and came != expected:
                check_sha256(path, expected)
            lines.append(f"{key} {came}")
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def folder() -> Path:
    """Where downloaded files lie, laid out as py-feat's own cache."""
    return cache_dir() / "weights" / "py-feat"


def find(detector: str, given: Path | None, installed: Callable[[], Path] | None = None) -> PyFeatWeights:
    """The detector's files: in the folder ``given``, else in the cache, else where ``installed()`` says py-feat keeps them.

    Raises WeightsError (``weights_missing``) that names what is missing, its licence, and what to do.
    """
    if given is not None:
        places: list[tuple[str, Path]] = [("path", given)]
    else:
        places = [("cache", folder())]
        if installed is not None:
            places.append(("package", installed()))
    missing: list[HubFile] = []
    for source, place in places:
        found = [(file, _inside(place, file)) for file in FILES[detector]]
        missing = [file for file, path in found if path is None]
        if not missing:
            return PyFeatWeights(detector, tuple((file.key, path) for file, path in found if path is not None), source)
    listed = []
    for repository in dict.fromkeys(file.repository for file in missing):
        files = [file for file in missing if file.repository == repository]
        listed.append(f"{OWNER}/{repository}/{' and '.join(file.name for file in files)} (licence: {files[0].licence})")
    raise WeightsError(
        f"Expected the weights of py-feat's {detector} detector in {' or '.join(str(place) for _, place in places)} but "
        f"found no {'; '.join(listed)}.",
        code="weights_missing",
        remedy=f"Run `lamb weights fetch {NAMES[detector]}` (hub, once), or give --weights {NAMES[detector]}=FOLDER.",
    )


def licences(detector: str) -> list[str]:
    """What each repository holds and its licence, a line each, and where the whole story is."""
    lines = {f"{OWNER}/{file.repository}: {file.what}; {file.licence}" for file in FILES[detector]}
    return [
        *sorted(lines),
        "py-feat's LICENSES folder (in its package) says more, also on the data they were trained on.",
    ]


def fetch(detector: str, *, say: Callable[[str], None], accept: bool) -> PyFeatWeights:
    """Show the licences, then download what is missing, each file checked against the sha256 the hub lists for its commit.

    Raises
    ------
    WeightsError : (``licence``) without ``accept``; nothing is downloaded then.
    ToolError : (``download``) offline, or not what the hub listed.
    """
    name = NAMES[detector]
    for line in licences(detector):
        say(f"{name}: {line}")
    if not accept:
        raise WeightsError(
            f"Expected these licences to be accepted before {name} is downloaded.",
            code="licence",
            remedy=f"Run `lamb weights fetch {name} --accept-licences`.",
        )
    for repository in sorted({file.repository for file in FILES[detector]}):
        wanted = [file for file in FILES[detector] if file.repository == repository]
        if all(_inside(folder(), file) for file in wanted):
            continue
        _fetch_repository(wanted, say)
    found = find(detector, folder())
    found = PyFeatWeights(detector, found.files, "cache")
    say(f"{name}: ok, sha256 {found.digest[:12]}")
    return found


def _fetch_repository(wanted: list[HubFile], say: Callable[[str], None]) -> None:
    repository = wanted[0].repository
    base = f"{OWNER}/{repository}"
    commit = str(_listing(f"api/models/{base}")["sha"])
    if not COMMIT.fullmatch(commit):
        raise ToolError(f"Expected a commit of {HUB}/{base} but got {commit[:60]!r}.", code="download")
    listed = {entry["path"]: entry for entry in _listing(f"api/models/{base}/tree/{commit}")}
    root = folder() / f"models--{OWNER}--{repository}"
    for file in wanted:
        entry = listed.get(file.name)
        if entry is None:
            raise ToolError(f"Expected {file.name} in {HUB}/{base} but it has none.", code="download")
        say(f"{file.key}: downloading {entry['size'] / 1e6:.1f} MB")
        target = root / "snapshots" / commit / file.name
        expected = entry.get("lfs", {}).get("oid")
        came = download(
            f"{HUB}/{base}/resolve/{commit}/{file.name}",
            target,
            max_bytes=MAX_FILE_BYTES,
            time_limit_s=FILE_LIMIT_S,
            sha256=expected,
            remedy=f"If this machine is offline, download {HUB}/{base} elsewhere and give its parent folder with --weights.",
        )
        _write_json(folder() / SUMS, {**_sums(), file.key: came})
    # Last: only a repository whose files are all there is found by this name.
    _write_text(root / "refs" / "main", commit)


def _listing(path: str) -> Any:
    """A JSON document of the hub. Raises ToolError (``download``)."""
    with tempfile.TemporaryDirectory(prefix="lamb-hub-") as place:
        target = Path(place) / "listing.json"
        remedy = "If this machine is offline, give the folder of the files with --weights."
        download(f"{HUB}/{path}", target, max_bytes=MAX_LISTING_BYTES, time_limit_s=LISTING_LIMIT_S, remedy=remedy)
        try:
            return json.loads(target.read_text())
        except ValueError as error:
            raise ToolError(f"Expected JSON at {HUB}/{path} but got something else.", code="download") from error


def _inside(place: Path, file: HubFile) -> Path | None:
    """The file's path in a folder of either layout."""
    plain = place / file.repository / file.name
    if plain.is_file():
        return plain
    root = place / f"models--{OWNER}--{file.repository}"
    main = root / "refs" / "main"
    if not main.is_file():
        return None
    commit = main.read_text(errors="replace").strip()
    path = root / "snapshots" / commit / file.name
    return path if COMMIT.fullmatch(commit) and path.is_file() else None


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """A file's digest, read once per process: the emotion weights alone are hundreds of megabytes."""
    return sha256_file(path)


def _sums() -> dict[str, str]:
    path = folder() / SUMS
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_json(path: Path, content: dict[str, str]) -> None:
    _write_text(path, json.dumps(content, indent=1, sort_keys=True))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    os.replace(partial, path)
