"""Embedding: vocabulary rules, tracks, text files and their cache. References: gensim's own reader, the packaged table."""

from __future__ import annotations

import gzip
import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import ToolError, WeightsError, Word
from extractors.embedding import EmbeddingSettings, WordVectors, download_vectors, embed, text_spec, tokens_track
from extractors.vector_files import open_text
from extractors.weights import cache_dir
from extractors.word_forms import entries, spoken_words

DIM = 300
SETTINGS_300 = "glove-6b-300d"


@pytest.fixture(scope="module")
def glove() -> WordVectors:
    return WordVectors.open(EmbeddingSettings())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_vectors(path: Path, words: list[str], values: np.ndarray) -> Path:
    lines = [f"{word} {' '.join(f'{x:.5f}' for x in row)}\n" for word, row in zip(words, values, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    words = ["the", "joy", "grief", "n't", "do", "ca", "café", "2000"]
    return write_vectors(tmp_path / "v.300d.txt", words, np.random.default_rng(3).normal(size=(len(words), DIM)))


# --- the packaged table ------------------------------------------------------------------------------------------


def test_packaged_table(glove: WordVectors) -> None:
    assert (len(glove), glove.dim) == (400_000, 50)
    # the first numbers of "the" as Stanford's glove.6B.50d.txt prints them
    np.testing.assert_allclose(glove.table.vectors[glove.index["the"]][:4], [0.418, 0.24968, -0.41242, 0.1217])


def test_keyed_is_a_gensim_table_over_the_same_memory(glove: WordVectors) -> None:
    from gensim.models import KeyedVectors

    assert isinstance(glove.keyed, KeyedVectors)
    assert np.shares_memory(glove.keyed.vectors, glove.table.vectors)
    np.testing.assert_array_equal(glove.keyed["hope"], glove.vector("hope"))
    a, b = glove.vector("joy"), glove.vector("sadness")
    assert a is not None
    assert b is not None
    assert glove.keyed.similarity("joy", "sadness") == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


RULES = {
    "hope": ["hope"],
    "HOPE": ["hope"],
    "Hello,": ["hello"],
    "“quoted”": ["quoted"],
    "No.": ["no"],  # not "no.", the abbreviation of number
    "I'm": ["i", "'m"],
    "ill.": ["ill"],  # not Illinois
    "U.S.,": ["u.s."],
    "p.m.": ["p.m."],
    "Mr.": ["mr"],
    "don't": ["do", "n't"],
    "Don’t!": ["do", "n't"],
    "CAN'T": ["ca", "n't"],
    "won't": ["wo", "n't"],
    "I'd've": ["i", "'d", "'ve"],
    "she's": ["she", "'s"],
    "n't": ["n't"],
    "'cause": ["'cause"],
    "'hello'": ["hello"],
    "o'clock": ["o'clock"],
    "dogs'": ["dogs"],
    "well-being": ["well-being"],
    "tear-stained": ["tear", "stained"],
    "tear-qqzzvx": ["tear"],
    "mother-in-law's": ["mother-in-law", "'s"],
    "y'all": ["y", "all"],
    "1,000": ["1,000"],
    "$5": ["5"],
    "50%": ["50"],
    "3.14159": ["3"],
    "23,456": ["20000"],
    "sooooooo": ["soo"],
    "café": ["café"],
    "cafe\u0301": ["café"],
    "...": ["..."],
    ":)": [":)"],
    "qqzzvx": [],
    "😂": [],
    "": [],
    "99999999999999999999": [],
    "a" * 500: [],
}


@pytest.mark.parametrize("word", RULES, ids=[repr(word[:20]) for word in RULES])
def test_word_rules(word: str, glove: WordVectors) -> None:
    assert entries(word, glove.index) == RULES[word]


@settings(deadline=None)
@given(st.text(max_size=100))
def test_any_text_gives_known_entries_and_words_with_letters(text: str) -> None:
    vocabulary = {"a", "b", "0", "1", "n't", "'s"}
    assert set(entries(text, vocabulary)) <= vocabulary
    assert all(any(c.isalnum() for c in word) and not any(c.isspace() for c in word) for word in spoken_words(text))


def test_spoken_words_are_the_units_a_recogniser_gives() -> None:
    text = "I do n't know... it 's fine—really?no :( and/or OK! [NAME]  -  "
    expected = ["I", "don't", "know...", "it's", "fine", "really", "no", "and", "or", "OK!", "[NAME]"]
    assert spoken_words(text) == expected


# --- tracks ------------------------------------------------------------------------------------------------------


def test_embed(glove: WordVectors) -> None:
    words = [Word("I", 0.1, 0.2), Word("don't", 0.2, 0.5), Word("qqzzvx", 0.5, 0.9), Word("know.", 1.0, 1.3)]
    track = embed(words, glove)
    table = glove.table.vectors
    do_not = (table[glove.index["do"]] + table[glove.index["n't"]]) / 2
    np.testing.assert_allclose(track.values[1], do_not, rtol=1e-5)
    np.testing.assert_array_equal(track.values[3], table[glove.index["know"]])
    np.testing.assert_array_equal(track.valid, [True, True, False, True])
    assert not track.values[2].any()
    np.testing.assert_array_equal(track.start_s, [0.1, 0.2, 0.5, 1.0])
    np.testing.assert_array_equal(track.end_s, [0.2, 0.5, 0.9, 1.3])
    assert track.reason is None


def test_spec(glove: WordVectors) -> None:
    spec = text_spec(glove)
    assert (spec.modality, spec.dim, spec.rate_hz, spec.extractor) == ("text", 50, None, "glove")
    assert (spec.columns[0], spec.columns[-1]) == ("glove_000", "glove_049")
    assert spec.weights == glove.digest


@pytest.mark.parametrize(("texts", "reason"), [([], "no_speech"), (["qqzzvx"], "unknown_words")])
def test_nothing_known_has_a_reason(texts: list[str], reason: str, glove: WordVectors) -> None:
    track = embed([Word(text, 0, 1) for text in texts], glove)
    assert (len(track), track.observed, track.reason) == (len(texts), False, reason)


def test_written_and_spoken_words_give_the_same_rows(glove: WordVectors) -> None:
    spoken = embed([Word("I", 0, 1), Word("don't", 1, 2), Word("know.", 2, 3)], glove)
    written = tokens_track("I do n't know :(", glove, words_per_s=2.0)
    np.testing.assert_array_equal(written.values, spoken.values)
    np.testing.assert_allclose(written.start_s, [0, 0.5, 1.0])
    np.testing.assert_allclose(written.end_s, [0.5, 1.0, 1.5])
    assert tokens_track(" :) ", glove).reason == "no_speech"
    with pytest.raises(ValueError, match="words_per_s"):
        tokens_track("a", glove, words_per_s=0)


# --- text files and the cache ------------------------------------------------------------------------------------


def test_text_file_reads_as_gensim_reads_it(text_file: Path) -> None:
    from gensim.models import KeyedVectors

    reference = KeyedVectors.load_word2vec_format(str(text_file), binary=False, no_header=True)
    vectors = WordVectors.open(EmbeddingSettings(SETTINGS_300, text_file))
    assert vectors.table.words == reference.index_to_key
    np.testing.assert_array_equal(vectors.table.vectors, reference.vectors)
    np.testing.assert_allclose(vectors.vector("can't"), (reference["ca"] + reference["n't"]) / 2, rtol=1e-5)
    assert text_spec(vectors).dim == DIM


@pytest.mark.shared
def test_real_300d_vectors_survive_the_text_format(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "glove" / "glove6B300d_3151w.npz"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} in the shared data")
    with np.load(archive, allow_pickle=False) as arrays:
        words, values = arrays["words"].tolist(), arrays["vecs"]
    path = write_vectors(tmp_path / "real.txt", words, values)
    vectors = WordVectors.open(EmbeddingSettings(SETTINGS_300, path))
    assert vectors.table.words == words
    np.testing.assert_allclose(vectors.table.vectors, values, atol=1e-5)
    assert vectors.keyed.similarity(words[0], words[0]) == pytest.approx(1, abs=1e-5)


def test_words_with_spaces_headers_and_duplicates(tmp_path: Path) -> None:
    values = np.arange(4 * DIM, dtype=np.float32).reshape(4, DIM)
    path = write_vectors(tmp_path / "840B.txt", ["joy", "at name@domain.com", ". . .", "joy"], values)
    path.write_text(f"4 {DIM}\n" + path.read_text())
    table = open_text(path, DIM)
    assert table.words == ["joy", "at name@domain.com", ". . ."]
    np.testing.assert_array_equal(table.vectors, values[:3])


def test_txt_gz_and_zip_are_the_same_vectors(text_file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "v.txt.gz"
    packed.write_bytes(gzip.compress(text_file.read_bytes()))
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("v.50d.txt", "a 1\n")
        out.write(text_file, "v.300d.txt")
    tables = [open_text(path, DIM) for path in (text_file, packed, archive)]
    assert len({table.digest for table in tables}) == 1
    np.testing.assert_array_equal(tables[0].vectors, tables[2].vectors)


def test_cache_is_mapped_read_only_and_not_rewritten(text_file: Path, monkeypatch) -> None:
    first = open_text(text_file, DIM)
    file = Path(first.vectors.filename)  # type: ignore[attr-defined]
    before = (file.stat().st_mtime_ns, file.stat().st_ino)

    def refuse(*args):
        raise AssertionError("must not parse again")

    monkeypatch.setattr("extractors.vector_files._vectors_of_lines", refuse)
    second = open_text(text_file, DIM)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    np.testing.assert_array_equal(first.vectors, second.vectors)
    with pytest.raises(ValueError, match="read-only"):
        second.vectors[0, 0] = 1.0


@pytest.mark.parametrize("name", ["words.txt", "vectors.f32", "meta.json"])
def test_damaged_cache_is_made_again(name: str, text_file: Path) -> None:
    first = open_text(text_file, DIM)
    expected = np.array(first.vectors)
    folder = Path(first.vectors.filename).parent  # type: ignore[attr-defined]
    with (folder / name).open("ab") as stream:
        stream.write(b"x")
    again = open_text(text_file, DIM)
    assert again.words == first.words
    np.testing.assert_array_equal(again.vectors, expected)
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "vectors.f32", "words.txt"]
    assert not list(folder.parent.glob(".partial-*"))


def _open_elsewhere(path: Path) -> tuple[int, float]:
    table = open_text(path, DIM)
    return len(table.words), float(np.asarray(table.vectors).sum())


def test_several_processes_make_the_cache_at_once(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(2000)]
    values = np.random.default_rng(0).normal(size=(2000, DIM))
    path = write_vectors(tmp_path / "many.txt", words, values)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(_open_elsewhere, [path] * 3, chunksize=1)
    assert len(set(results)) == 1
    assert results[0] == _open_elsewhere(path)
    assert results[0][1] == pytest.approx(values.sum(), abs=10)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"joy 1 2 3\n", "line 1"),
        (b"joy " + b" ".join([b"x"] * DIM) + b"\n", "line 1"),
        (b"joy " + b" ".join([b"nan"] * DIM) + b"\n", "line 1"),
        (b"joy " + b" ".join([b"1"] * (DIM - 1)) + b"\n", "line 1"),
    ],
    ids=["empty", "short", "text", "nan", "one-less"],
)
def test_malformed_text_is_a_weights_error(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=what):
        open_text(path, DIM)


@pytest.mark.parametrize("name", ["bad.gz", "bad.zip"])
def test_damaged_archives_are_weights_errors(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(WeightsError, match=r"bad\."):
        open_text(path, DIM)


def test_names_and_missing_vectors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="glove-6b-300d"):
        WordVectors.open(EmbeddingSettings("glove-7b"))
    with pytest.raises(WeightsError, match="nothing is there"):
        WordVectors.open(EmbeddingSettings(SETTINGS_300, tmp_path / "no.txt"))
    with pytest.raises(WeightsError, match="fetch glove-840b-300d") as caught:
        WordVectors.open(EmbeddingSettings("glove-840b-300d"))
    assert caught.value.code == "weights_missing"


def test_corrupted_packaged_table_is_a_weights_error(glove: WordVectors, tmp_path: Path) -> None:
    (tmp_path / "glove_6B_50d_emb.npy").write_bytes(b"\x93NUMPY garbage")
    (tmp_path / "glove_6B_index.parquet").write_bytes(b"PAR1")
    with pytest.raises(WeightsError, match="sha256"):
        WordVectors.open(EmbeddingSettings(path=tmp_path))


# --- download ----------------------------------------------------------------------------------------------------


class _Response:
    """What the opener gives: headers and bytes in pieces."""

    def __init__(self, body: bytes, length: int | None) -> None:
        self.headers = {} if length is None else {"Content-Length": str(length)}
        self.body = body

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        pass

    def read(self, n: int) -> bytes:
        piece, self.body = self.body[:n], self.body[n:]
        return piece


def test_downloaded_archive_is_found_and_its_sha256_noted(text_file: Path, tmp_path: Path, monkeypatch) -> None:
    archive = tmp_path / "stanford.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.write(text_file, "glove.6B.300d.txt")
    body = archive.read_bytes()
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, timeout: _Response(body, len(body)))
    lines: list[str] = []
    target = download_vectors(SETTINGS_300, lines.append)
    assert target.read_bytes() == body
    assert '"sha256"' in target.with_name(target.name + ".json").read_text()
    assert len(lines) == 2
    vectors = WordVectors.open(EmbeddingSettings(SETTINGS_300))
    assert (vectors.source, len(vectors)) == ("cache", 8)


@pytest.mark.parametrize(
    ("response", "what"),
    [
        (_Response(b"x" * 10, 2 << 30), "limit"),
        (_Response(b"x" * 10, 20), "ended after 10 of 20"),
        (OSError("Name or service not known"), "Name or service not known"),
    ],
    ids=["too-large", "cut-short", "offline"],
)
def test_failed_downloads_leave_nothing(response: object, what: str, monkeypatch) -> None:
    def answer(self, url, timeout):
        if isinstance(response, Exception):
            raise response
        return response

    monkeypatch.setattr("urllib.request.OpenerDirector.open", answer)
    with pytest.raises(ToolError, match=what) as caught:
        download_vectors(SETTINGS_300)
    assert caught.value.code == "download"
    assert not [path for path in cache_dir().rglob("*") if path.is_file()]


def test_only_https_is_fetched(tmp_path: Path) -> None:
    from extractors.downloads import _https_opener, download

    for url in ("http://example.org/x", "file:///etc/hostname"):
        with pytest.raises(ToolError, match="https"):
            download(url, tmp_path / "x", max_bytes=10, time_limit_s=1)
    with pytest.raises(OSError, match="unknown url type"):  # a redirect would meet the same opener
        _https_opener().open("http://example.org/x")
