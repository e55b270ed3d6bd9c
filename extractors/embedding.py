"""Embedding: words with times → GloVe text track.

In: ``data.Word`` sequences (seconds on the file's clock), or a text without times. Out: a text FeatureTrack with one row
per word, columns ``glove_000 …``, rows of unknown words zero and not valid. The rules for words that are not in the
vocabulary as written are those of ``extractors.word_forms``; they are the same for spoken words and for written text.
Words are rows of GloVe (Pennington et al. 2014); several entries for one word (``do`` + ``n't``) are averaged.

    vectors = WordVectors.open(EmbeddingSettings())        # packaged GloVe 6B, 50-d
    track = embed(transcript.words, vectors)               # track.values: (n_words, 50)
    vectors.keyed.most_similar("joy")                      # the same table as a gensim KeyedVectors
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.clip import Word
from data.errors import WeightsError
from data.spec import FeatureSpec
from data.track import FeatureTrack
from extractors.vector_files import VectorTable, download_vectors, downloaded, open_packaged, open_text
from extractors.weights import resolve
from extractors.word_forms import entries, spoken_words

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

__all__ = ["EmbeddingSettings", "WordVectors", "download_vectors", "embed", "text_spec", "tokens_track"]

EXTRACTOR = "glove"
VERSION = "1"  # raise it when a rule of word_forms changes
PACKAGED = "glove-6b-50d"
DIMENSIONS = {PACKAGED: 50, "glove-6b-100d": 100, "glove-6b-200d": 200, "glove-6b-300d": 300, "glove-840b-300d": 300}
DEFAULT_WORDS_PER_S = 3.0  # conversational English, 150–200 words a minute


@dataclass(frozen=True)
class EmbeddingSettings:
    """Which word vectors.

    Parameters
    ----------
    name : "glove-6b-50d" (comes with a package), "glove-6b-100d", "-200d", "-300d" or "glove-840b-300d".
    path : the vectors' .txt, .txt.gz or .zip; for the packaged set also the folder that holds its two files.
    """

    name: str = PACKAGED
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class WordVectors:
    """An open table of word vectors, memory-mapped; ``digest`` is its sha256, ``source`` says where it was found."""

    name: str
    table: VectorTable

    @classmethod
    def open(cls, settings: EmbeddingSettings) -> WordVectors:
        """Find and map the vectors: path → cache (downloaded before) → package; nothing is downloaded.

        A text file's first opening parses it into the cache (6B 300-d: about a minute), later ones map it.
        Raises WeightsError: unknown name, nothing found, or the file is corrupted.
        """
        if settings.name not in DIMENSIONS:
            names = ", ".join(DIMENSIONS)
            raise WeightsError(f"Expected vectors among {names} but got {settings.name!r}.", code="unknown_name")
        dim, path = DIMENSIONS[settings.name], settings.path
        if path is not None and not path.exists():
            raise WeightsError(f"Expected word vectors at {path} but nothing is there.", code="weights_missing")
        if path is not None and path.is_file() and path.suffix in (".txt", ".gz", ".zip"):
            return cls(settings.name, open_text(path, dim))
        if settings.name == PACKAGED:
            return cls(settings.name, open_packaged(resolve(PACKAGED, path)))
        if path is not None:
            raise WeightsError(f"Expected a .txt, .gz or .zip of word vectors but got {path}.", code="weights_missing")
        archive = downloaded(settings.name)
        if not archive.is_file():
            raise WeightsError(
                f"Expected the {settings.name} vectors but they are not in the cache.",
                code="weights_missing",
                remedy=f"Run `lamb weights fetch {settings.name}` (network, once) or give the path of their .txt or .zip.",
            )
        return cls(settings.name, open_text(archive, dim, "cache"))

    @property
    def dim(self) -> int:
        return self.table.vectors.shape[1]

    @property
    def digest(self) -> str:
        return self.table.digest

    @property
    def source(self) -> str:
        return self.table.source

    def __len__(self) -> int:
        return len(self.table.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """Word → row."""
        return dict(zip(self.table.words, range(len(self.table.words)), strict=True))

    @cached_property
    def keyed(self) -> KeyedVectors:
        """The table as a gensim KeyedVectors, over the same memory. Importing gensim takes 1–2 s, hence only when used."""
        from gensim.models import KeyedVectors

        keyed = KeyedVectors(self.dim)
        keyed.index_to_key, keyed.key_to_index = self.table.words, self.index
        keyed.vectors, keyed.next_index = self.table.vectors, len(self)
        return keyed

    def vector(self, word: str) -> np.ndarray | None:
        """float32 [shape=(dim,)]: the mean of the word's entries, or None if the word is unknown."""
        known = entries(word, self.keyed.key_to_index)
        return self.keyed[known].mean(axis=0, dtype=np.float32) if known else None


def text_spec(vectors: WordVectors) -> FeatureSpec:
    """Columns glove_000 … glove_{dim-1}, one row per word (no rate), the vectors' digest."""
    columns = tuple(f"glove_{i:03d}" for i in range(vectors.dim))
    return FeatureSpec("text", columns, None, EXTRACTOR, VERSION, vectors.digest)


def embed(words: Sequence[Word], vectors: WordVectors) -> FeatureTrack:
    """One row per word with the word's times.

    Parameters
    ----------
    words : in order of time.

    Returns
    -------
    FeatureTrack : values [shape=(n_words, dim)], not valid and zero where the word is unknown (see
        ``extractors.word_forms`` for what counts as known); reason ``no_speech`` without words, ``unknown_words`` if no
        word is known.

    Raises
    ------
    ValueError : the words' times run backwards.
    """
    spec = text_spec(vectors)
    if not words:
        return FeatureTrack.empty(spec, "no_speech")
    found = {text: vectors.vector(text) for text in {word.text for word in words}}
    values = np.zeros((len(words), vectors.dim), np.float32)
    valid = np.zeros(len(words), bool)
    for row, word in enumerate(words):
        vector = found[word.text]
        if vector is not None:
            values[row], valid[row] = vector, True
    start_s = np.array([word.start_s for word in words])
    end_s = np.array([word.end_s for word in words])
    return FeatureTrack(values, start_s, end_s, valid, spec, None if valid.any() else "unknown_words")


def tokens_track(text: str, vectors: WordVectors, words_per_s: float = DEFAULT_WORDS_PER_S) -> FeatureTrack:
    """The track of a text without times, as if spoken evenly from 0 s at ``words_per_s``.

    The text is cut into the units a recogniser would give (``word_forms.spoken_words``), so that a model trained on
    written text meets the same rows when it hears speech: emoticons and lone punctuation make no row.
    """
    if not words_per_s > 0:
        raise ValueError(f"Expected words_per_s > 0 but got {words_per_s}")
    words = [Word(word, i / words_per_s, (i + 1) / words_per_s) for i, word in enumerate(spoken_words(text))]
    return embed(words, vectors)
