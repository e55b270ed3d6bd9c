"""`lamb push` and `lamb pull`: checkpoints to and from the Hugging Face hub or a folder; ``cli`` adds them.

lamb push runs/one hf://ada/lamb-mosei
lamb pull hf://ada/lamb-mosei --output mosei-model
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def push(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run's folder, or a checkpoint's file.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="hf://user/name on the Hugging Face hub, or a folder.")
    ],
    private: Annotated[bool, typer.Option("--private", help="On the hub: for you alone.")] = False,
) -> None:
    """Give a checkpoint and its card away: to the Hugging Face hub, or into a new folder. Nothing else of the run travels.

    Example: lamb push runs/one hf://ada/lamb-mosei
    """
    from pipeline.hub import SCHEME
    from pipeline.hub import push as give

    place = give(checkpoint, target, private)
    print(f"written: {place}")
    print(f"get it: lamb pull {shlex.quote(target if target.startswith(SCHEME) else place)} --output DIR")


def pull(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="hf://user/name on the Hugging Face hub, or a folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder for it.")],
    revision: Annotated[str | None, typer.Option(metavar="NAME", help="On the hub: a branch, tag or commit.")] = None,
) -> None:
    """Get a checkpoint and its card from the Hugging Face hub, or from a folder; its sha256 is checked.

    Example: lamb pull hf://ada/lamb-mosei --output mosei-model
    """
    from pipeline.hub import pull as get

    found = get(source, output, revision)
    print(f"checkpoint {found.provenance.get('name', 'unnamed')} ({found.licence or 'licence not stated'}): {output}")
    print(f"use it: lamb predict --checkpoint {shlex.quote(str(output))} clip.mp4")


def add_hub_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``lamb``."""
    for command in (push, pull):
        app.command()(command)
