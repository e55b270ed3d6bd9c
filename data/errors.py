"""The error tree. Every error carries a stable ``code`` for machines and one line for people.

The line says what was expected, what came, and what to do; ``str(error)`` is that line.
"""

from __future__ import annotations


class LambError(Exception):
    """Base of all errors that a user can cause or mend.

    Parameters
    ----------
    message : what was expected and what came; newlines are folded so that it stays one line.
    code : stable machine-readable code, e.g. ``not_found``; defaults to the class's own.
    remedy : what to do about it, appended to the line.
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None, remedy: str | None = None) -> None:
        self.code = code or self.default_code
        self.remedy = remedy
        line = " ".join(message.split())
        super().__init__(f"{line} {remedy}" if remedy else line)


class InputError(LambError):
    """The file given cannot be used: missing, empty, not media, too large, a disguised playlist."""

    default_code = "bad_input"


class MissingStream(InputError):
    """A stream was asked for that the file does not have. Inside the pipeline this becomes a mask, not a failure."""

    default_code = "no_stream"


class WeightsError(LambError):
    """Weights are missing, or are not the bytes they should be."""

    default_code = "weights"


class CheckpointError(LambError):
    """A LAMB checkpoint cannot be read: missing, corrupted, of an unknown version."""

    default_code = "checkpoint"


class SpecMismatch(CheckpointError):
    """Features and checkpoint were made by different extractors, versions or weights."""

    default_code = "spec_mismatch"


class ToolError(LambError):
    """An outside tool (ffmpeg, pip) failed or ran out of time."""

    default_code = "tool"
