"""What the results of ``lamb explain`` have in common as files: PNG, CSV and JSON that can be told from anything else.

In: figures of matplotlib and rows. Out: files, each written whole or not at all. Nothing but an earlier result of ours
may be replaced.

    check_replaceable(Path("a.png"), Path("a.csv"))              # before the work, not after it
    publish_figure(figure, Path("a.png"))
    publish_table(HISTOGRAM_HEADER, rows, Path("a.csv"))
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data.errors import InputError
from pipeline.predict import publish

KIND = "lamb-explanation"
SOFTWARE = "lamb explain"
HISTOGRAM_HEADER = ("label", "encoder", "tokens")
ATTENTION_HEADER = ("head", "label", "attended_label", "weight")
OURS = (SOFTWARE, f'"kind": "{KIND}"', ",".join(HISTOGRAM_HEADER), ",".join(ATTENTION_HEADER))


def publish_figure(figure: Any, output: Path) -> None:
    """PNG that names its maker. Raises InputError (output_unwritable)."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": SOFTWARE})
    publish(output, picture.getvalue())


def publish_table(header: Sequence[str], rows: Iterable[Sequence[Any]], output: Path) -> None:
    """CSV in UTF-8. Raises InputError (output_unwritable)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    publish(output, text.getvalue().encode())


def is_ours(path: Path) -> bool:
    """Whether a file is an earlier result of ``lamb explain``, by its first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return False
    return any(mark.encode() in head for mark in OURS)


def check_replaceable(*outputs: Path) -> None:
    """Raises InputError (output_exists) if something other than an earlier result of ours is there."""
    for output in outputs:
        if os.path.lexists(output) and not is_ours(output):
            raise InputError(
                f"Expected {str(output)!r} to be free but something is there.",
                code="output_exists",
                remedy="Choose another --output.",
            )
