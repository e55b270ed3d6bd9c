"""Word forms: which entries of a word-vector vocabulary stand for a written or spoken word.

In: a word as a recogniser or a writer spells it, and the vocabulary. Out: the vocabulary entries whose mean stands for it
(usually one), or none. The rules, first that finds something (examples: GloVe 6B, which is lower-case and tokenised as in
the Penn Treebank):

1. the word without the punctuation around it, as it is, then in lower case: ``No.`` → no (not the entry ``no.``, number);
   dotted letters keep their dots (``U.S.`` → u.s.), clipped words their apostrophe (``'cause``)
2. only punctuation: as it is (``...``, ``:)``)
3. numbers: without commas; else rounded to two, then one digit (``23,456`` → 20000)
4. contractions, as the Penn Treebank splits them: ``don't`` → do + n't, ``can't`` → ca + n't, ``I've`` → i + 've
5. hyphens and anything else inside: the known parts (``tear-stained`` → tear + stained; rules 1, 3, 4 for each)
6. drawn-out letters: ``soooooo`` → soo, then so
7. without accents

    entries("Don't!", vocabulary)        # ['do', "n't"]
    spoken_words("I do n't know... :(")  # ['I', "don't", 'know...']
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container

APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'"})
AROUND = re.compile(r"^[\W_]+|[\W_]+$")
INSIDE = re.compile(r"[\W_]+")
DOTTED = re.compile(r"(?:[^\W\d_]\.){2,}")  # u.s. p.m.
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CLITIC = re.compile(r"(.*\w)(n't|'s|'re|'ve|'ll|'d|'m)", re.IGNORECASE)
DETACHED = {"n't", "'s", "'re", "'ve", "'ll", "'d", "'m"}
DRAWN_OUT = re.compile(r"([^\W\d_])\1{2,}")
GLUED = re.compile(r"[—–/]|--+|\.\.+(?=\w)|[?!,;]+(?=[^\W\d_])")  # punctuation that writers leave no space after
MAX_LETTERS = 80  # longer is no word; keeps hostile text cheap
MAX_NUMBER_DIGITS = 12


def normalise(text: str) -> str:
    """Unicode compatibility form, with plain apostrophes."""
    return unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).translate(APOSTROPHES).strip()


def entries(word: str, vocabulary: Container[str]) -> list[str]:
    """Vocabulary entries whose mean stands for the word, by the module's rules; empty if none does."""
    text = normalise(word)
    if not text or len(text) > MAX_LETTERS:
        return []
    core = AROUND.sub("", text)
    if not core:
        return _first([text], vocabulary)
    return (
        _whole(text, core, vocabulary)
        or _number(core, vocabulary)
        or _contraction(core, vocabulary)
        or _parts(core, vocabulary)
        or _drawn_out(core, vocabulary)
        or _first([_without_accents(core)], vocabulary)
    )


def spoken_words(text: str) -> list[str]:
    """A written text as the words a speaker of it would be heard to say: the same units a recogniser gives.

    Split at white space (and at dashes, slashes and punctuation written without a space after it); Treebank clitics
    (``do n't``, ``it 's``) go back to their word; pieces without a letter or digit (emoticons, lone punctuation) are
    left out, because a recogniser never gives them.
    """
    words: list[str] = []
    for piece in GLUED.sub(" ", normalise(text)).split():
        if piece.lower() in DETACHED and words:
            words[-1] += piece
        elif any(letter.isalnum() for letter in piece):
            words.append(piece)
    return words


def _first(candidates: list[str], vocabulary: Container[str]) -> list[str]:
    """The first candidate that is known, as it is or in lower case."""
    for candidate in candidates:
        for form in (candidate, candidate.lower()):
            if form in vocabulary:
                return [form]
    return []


def _whole(text: str, core: str, vocabulary: Container[str]) -> list[str]:
    candidates = [core]
    if dotted := DOTTED.match(text):
        candidates.insert(0, dotted.group())
    if text.startswith("'") and not text.endswith("'"):
        candidates.insert(0, "'" + core)
    return _first(candidates, vocabulary)


def _number(core: str, vocabulary: Container[str]) -> list[str]:
    if not NUMBER.fullmatch(core):
        return []
    plain = core.replace(",", "")
    candidates = [plain]
    whole = plain.split(".")[0]
    if len(whole) <= MAX_NUMBER_DIGITS:
        value = int(whole)
        candidates += [str(value), *(str(round(value, digits - len(whole))) for digits in (2, 1))]
    return _first(candidates, vocabulary)


def _contraction(core: str, vocabulary: Container[str]) -> list[str]:
    match = CLITIC.fullmatch(core)
    if not match:
        return []
    stem, clitic = match.groups()
    found = _first([stem], vocabulary) or _contraction(stem, vocabulary)  # I'd've → i + 'd + 've
    return found + _first([clitic], vocabulary) if found else []


def _parts(core: str, vocabulary: Container[str]) -> list[str]:
    clitic = CLITIC.fullmatch(core)
    stem, ending = clitic.groups() if clitic else (core, "")
    pieces = [piece for piece in INSIDE.split(stem) if piece]
    if len(pieces) < 2:
        return []
    found = [entry for piece in pieces for entry in _first([piece], vocabulary) or _number(piece, vocabulary)]
    return found + _first([ending], vocabulary) if found and ending else found


def _drawn_out(core: str, vocabulary: Container[str]) -> list[str]:
    if not DRAWN_OUT.search(core):
        return []
    return _first([DRAWN_OUT.sub(r"\1\1", core), DRAWN_OUT.sub(r"\1", core)], vocabulary)


def _without_accents(core: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", core) if not unicodedata.combining(letter))
