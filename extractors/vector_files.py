"""Word-vector files: from the packaged table, a GloVe text file or Stanford's archives to words and a mapped matrix.

In: the packaged ``.npy`` + index, or ``word x1 … xd`` lines in .txt, .txt.gz or .zip (a word may contain spaces, as in GloVe
840B). Out: :class:`VectorTable`. A text file is parsed once into ``<cache>/vectors/<digest>/`` (words.txt, vectors.f32,
meta.json; published by one rename, so several processes may share it) and memory-mapped ever after. The digest is the
sha256 of the uncompressed text, so a .txt and its .zip are the same vectors.

    table = open_text(Path("glove.6B.300d.txt"), dim=300)
    table.vectors[table.words.index("hope")]           # float32 [shape=(300,)]
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import WeightsError
from extractors.weights import Found, cache_dir, writable_cache_dir

MAX_TEXT_BYTES = 16 << 30  # GloVe 840B unpacks to 5.6e9
MAX_LINE_BYTES = 1 << 16
CHUNK_BYTES = 1 << 20
DOWNLOADS = {
    "glove-6b": ("https://nlp.stanford.edu/data/glove.6B.zip", 1 << 30),  # 862e6 bytes: 50, 100, 200 and 300-d
    "glove-840b": ("https://nlp.stanford.edu/data/glove.840B.300d.zip", 3 << 30),  # 2.2e9 bytes
}
DOWNLOAD_LIMIT_S = 4 * 3600


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Words in order, their vectors float32 [shape=(n, d)] (memory-mapped, read-only), digest, and where it was found."""

    words: list[str]
    vectors: np.ndarray
    digest: str
    source: str


def open_packaged(found: Found) -> VectorTable:
    """The packaged GloVe: its .npy is mapped in place, nothing is copied. Checks both files' sha256 (0.2 s)."""
    import pyarrow.parquet

    vectors = np.load(found.file("glove_6B_50d_emb.npy"), mmap_mode="r", allow_pickle=False)
    index = pyarrow.parquet.read_table(found.file("glove_6B_index.parquet"), columns=["index"])
    words = index.column("index").to_pylist()
    if vectors.dtype != np.float32 or vectors.shape != (len(words), 50):
        raise WeightsError(f"Expected {len(words)} vectors of 50 float32 but got {vectors.dtype} {vectors.shape}.")
    return VectorTable(words, vectors, found.digest, found.source)


def open_text(path: Path, dim: int, source: str = "path") -> VectorTable:
    """A GloVe text file, .gz or .zip, through the cache.

    Raises WeightsError if it cannot be read, a line has not ``dim`` finite numbers, or the cache cannot be written.
    """
    try:
        digest = _digest(path, dim)
        table = _read(cache_dir() / "vectors" / digest, digest, dim, source)  # may be another user's, read-only
        if table is None:
            folder = writable_cache_dir() / "vectors" / digest
            _publish(path, dim, digest, folder)
            table = _read(folder, digest, dim, source)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise WeightsError(f"Expected word vectors at {path} but: {error}.", code="weights_corrupt") from error
    if table is None:
        raise WeightsError(f"Expected to keep word vectors in {folder} but they do not read back.", code="cache")
    return table


@contextlib.contextmanager
def _text(path: Path, dim: int) -> Iterator[IO[bytes]]:
    """The uncompressed text as a byte stream."""
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as stream:
            yield stream  # type: ignore[misc]
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            texts = [item for item in archive.infolist() if item.filename.endswith(".txt")]
            fitting = [item for item in texts if f"{dim}d" in item.filename] or texts
            if len(fitting) != 1:
                names = ", ".join(item.filename for item in texts[:8]) or "none"
                raise WeightsError(f"Expected one .txt of {dim}-d vectors in {path} but it holds: {names}.")
            with archive.open(fitting[0]) as stream:
                yield stream
    else:
        with path.open("rb") as stream:
            yield stream


def _digest(path: Path, dim: int) -> str:
    """sha256 of the uncompressed text; remembered by path, size and time of change (840B takes 10–30 s to hash)."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{dim}".encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((cache_dir() / "vectors" / "sources" / f"{key}.json").read_text())["digest"]
        if isinstance(known, str) and len(known) == 64 and known.isalnum():
            return known
    digest, n_bytes = hashlib.sha256(), 0
    with _text(path, dim) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            n_bytes += len(chunk)
            if n_bytes > MAX_TEXT_BYTES:
                raise WeightsError(f"Expected at most {MAX_TEXT_BYTES} bytes of text in {path}.", code="too_large")
            digest.update(chunk)
    note = writable_cache_dir() / "vectors" / "sources" / f"{key}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"digest": digest.hexdigest(), "path": str(path), "bytes": stat.st_size})
    return digest.hexdigest()


def _vectors_of_lines(stream: IO[bytes], dim: int, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(word, float32 [shape=(dim,)]) per line. The numbers are the last ``dim`` fields; what precedes is the word."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        line = line.rstrip(b" \r\n")
        if number == 1 and len(fields := line.split(b" ")) == 2 and all(field.isdigit() for field in fields):
            continue  # word2vec's header: count and dimension
        token = line.rsplit(b" ", dim)[0]
        try:
            values = np.fromstring(line[len(token) + 1 :], dtype=np.float32, sep=" ")
        except ValueError:  # text among the numbers; older numpy stops there with a DeprecationWarning instead
            values = np.zeros(0, np.float32)
        if len(values) != dim or not token or not np.isfinite(values).all():
            raise WeightsError(
                f"Expected a word and {dim} numbers in line {number} of {path} but got {line[:40]!r}…",
                code="weights_corrupt",
            )
        yield token.decode("utf-8", errors="replace"), values


def _publish(path: Path, dim: int, digest: str, folder: Path) -> None:
    """Parse into a folder of our own, then rename it into place; losing the race to another process is fine."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        words: dict[str, None] = {}  # ordered; the first of two equal words stays
        with warnings.catch_warnings(), _text(path, dim) as stream, (partial / "vectors.f32").open("wb") as out:
            warnings.simplefilter("ignore", DeprecationWarning)  # see _vectors_of_lines
            for word, values in _vectors_of_lines(stream, dim, path):
                if word not in words:
                    words[word] = None
                    out.write(values.tobytes())
        if not words:
            raise WeightsError(f"Expected word vectors in {path} but it is empty.", code="weights_corrupt")
        text = "\n".join(words).encode()
        (partial / "words.txt").write_bytes(text)
        meta = {"digest": digest, "dim": dim, "n_words": len(words), "words_sha256": hashlib.sha256(text).hexdigest()}
        write_json(partial / "meta.json", meta)
        if folder.exists() and _read(folder, digest, dim, "") is None:  # damaged: move it out of the way
            with contextlib.suppress(OSError):
                os.rename(folder, partial / "damaged")
        with contextlib.suppress(OSError):  # somebody else was first: theirs is the same
            os.rename(partial, folder)
            shutil.rmtree(folder / "damaged", ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(folder: Path, digest: str, dim: int, source: str) -> VectorTable | None:
    """The cached table, or None if it is missing or not whole."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        text = (folder / "words.txt").read_bytes()
        shape = (int(meta["n_words"]), int(meta["dim"]))
        if meta["digest"] != digest or shape[1] != dim or hashlib.sha256(text).hexdigest() != meta["words_sha256"]:
            return None
        if (folder / "vectors.f32").stat().st_size != shape[0] * shape[1] * 4:
            return None
        vectors = np.memmap(folder / "vectors.f32", dtype=np.float32, mode="r", shape=shape)
        return VectorTable(text.decode().split("\n"), vectors, digest, source)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_json(path: Path, record: dict[str, object]) -> None:
    """Write by atomic rename."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    with os.fdopen(handle, "w") as stream:
        json.dump(record, stream, indent=1)
    os.replace(partial, path)


def downloaded(name: str) -> Path:
    """Where the archive that holds ``name`` (for example "glove-6b-300d") lies once it was downloaded."""
    return cache_dir() / "downloads" / DOWNLOADS[name.rpartition("-")[0]][0].rpartition("/")[2]


def download_vectors(name: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """Download Stanford's archive that holds ``name`` (asked for explicitly; 0.9 or 2.2 GB) and note its sha256.

    Stanford publishes no checksum, so the one noted in ``<archive>.json`` is what came, for later comparison.
    Raises ToolError if it cannot be had (offline, too slow, too large).
    """
    from extractors.downloads import download

    url, max_bytes = DOWNLOADS[name.rpartition("-")[0]]
    target = downloaded(name)
    if target.is_file():
        say(f"{name}: already at {target}")
        return target
    say(f"{name}: downloading {url} (at most {max_bytes / 1e9:.1f} GB, PDDL-1.0)")
    remedy = "If this machine is offline, download it elsewhere and give the file's path."
    digest = download(url, target, max_bytes=max_bytes, time_limit_s=DOWNLOAD_LIMIT_S, remedy=remedy)
    record: dict[str, object] = {"url": url, "sha256": digest, "bytes": target.stat().st_size}
    write_json(target.with_name(target.name + ".json"), record)
    say(f"{name}: ok, sha256 {digest[:12]}…")
    return target
