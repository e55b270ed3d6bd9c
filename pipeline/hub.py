"""Checkpoints to and from the Hugging Face hub, or a folder: weights, their JSON and the model card, and nothing else.

In: a checkpoint (a run's folder or a file of the pair), or an address. Out: a folder that `lamb predict --checkpoint` reads,
or a repository. Addresses: ``hf://user/name`` is the hub and the only thing that touches the network; all else is a folder.

    push(Path("runs/one"), "hf://ada/lamb-mosei")
    pull("hf://ada/lamb-mosei", Path("mosei-model"))
    push(Path("runs/one"), "/media/stick/lamb-mosei"); pull("/media/stick/lamb-mosei", Path("model"))

The mixin's own files (config.json, a generated card) are not written: the JSON of the pair is the configuration.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extractors.environment import prepare

prepare()  # before the library is imported: it reads the environment once

from huggingface_hub import ModelHubMixin, snapshot_download  # noqa: E402
from huggingface_hub.errors import (  # noqa: E402
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from data.errors import InputError  # noqa: E402
from lamb.checkpoint import FOLDER_NAME, Checkpoint, pair  # noqa: E402
from pipeline.model_card import CARD_NAME, model_card  # noqa: E402
from pipeline.predict import publish  # noqa: E402

SCHEME = "hf://"
FILES = (f"{FOLDER_NAME}.safetensors", f"{FOLDER_NAME}.json", CARD_NAME)
OFFLINE = "Check the connection (and HF_HUB_OFFLINE), or use a folder in place of hf://…"


class HubCheckpoint(
    ModelHubMixin,
    library_name="lamb",
    tags=["emotion-recognition", "multimodal", "multi-label"],
):
    """A checkpoint's three files as the hub's mixin knows models: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``.

    ``source`` is a run's folder or a file of the pair; it is read whole and checked. Raises CheckpointError.
    """

    def __init__(self, source: Path) -> None:
        weights, described = pair(source)
        loaded = Checkpoint.load(source)  # sha256, shapes, numbers
        card = weights.with_name(CARD_NAME)
        self.checkpoint = loaded
        text = card.read_bytes() if card.is_file() else model_card(loaded).encode()
        contents = (weights.read_bytes(), described.read_bytes(), text)
        self._contents = dict(zip(FILES, contents, strict=True))
        self._hub_mixin_config = None  # no config.json: it would hold this machine's path

    def _save_pretrained(self, save_directory: Path) -> None:
        for name, content in self._contents.items():
            publish(save_directory / name, content)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> HubCheckpoint:
        """A folder, or ``user/name`` on the hub (``revision``, ``token``, ``cache_dir``, ``local_files_only`` as there).

        Raises CheckpointError, InputError (hub_unreachable, hub_missing).
        """
        path = Path(pretrained_model_name_or_path)
        if path.is_dir():
            return cls(path)
        known = {key: options[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in options}
        with _one_line(str(pretrained_model_name_or_path)):
            found = snapshot_download(str(pretrained_model_name_or_path), allow_patterns=list(FILES), **known)
        return cls(Path(found))


def push(source: Path, target: str, private: bool = False) -> str:
    """Copy a checkpoint and its card to a new folder, or to the hub; where it lies then.

    Raises CheckpointError; InputError: bad_option (an address that is neither), output_exists, hub_unreachable, hub_refused.
    """
    place = address(target)
    model = HubCheckpoint(source)
    if isinstance(place, str):
        with _one_line(place):
            return str(model.push_to_hub(place, private=private or None, commit_message="LAMB checkpoint"))
    _into(place, model)
    return str(place)


def pull(source: str, folder: Path, revision: str | None = None) -> Checkpoint:
    """Copy a checkpoint and its card into the new folder ``folder``; what was read. It is checked before it is there.

    Raises as :func:`push`; InputError (hub_missing) where the hub has no such model.
    """
    place = address(source)
    if isinstance(place, Path) and not place.exists():
        raise InputError(
            f"Expected a checkpoint at {source!r} but nothing is there.",
            remedy=f"A model of the hub is written {SCHEME}user/name.",
            code="not_found",
        )
    _check_new(folder)
    model = HubCheckpoint(place) if isinstance(place, Path) else HubCheckpoint.from_pretrained(place, revision=revision)
    _into(folder, model)
    return model.checkpoint


def address(text: str) -> str | Path:
    """``user/name`` of the hub for ``hf://user/name``, else a path. Raises InputError for one that looks like the first."""
    if text.startswith(SCHEME):
        parts = text.removeprefix(SCHEME).rstrip("/").split("/")
        if len(parts) != 2 or not all(parts):
            raise InputError(f"Expected {SCHEME}user/name but got {text!r}.", code="bad_option")
        return "/".join(parts)
    if "://" in text:
        raise InputError(f"Expected {SCHEME}user/name or a folder but got {text!r}.", code="bad_option")
    path = Path(text).expanduser()
    plain = text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/")
    if plain and not path.exists() and not path.parent.is_dir():
        raise InputError(
            f"Expected {SCHEME}user/name or a folder but got {text!r}, which could be either.",
            remedy=f"Write {SCHEME}{text} for the hub, ./{text} for a folder.",
            code="bad_option",
        )
    return path


def _check_new(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(
            f"Expected a new or empty folder at {str(folder)!r} but something is there.",
            remedy="Choose another folder, or delete it.",
            code="output_exists",
        )


def _into(folder: Path, model: HubCheckpoint) -> None:
    """Write the three files into a new folder: beside its place, then one rename."""
    _check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            model.save_pretrained(building)
            building.chmod(0o755)
            if folder.is_dir():
                folder.rmdir()
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"Could not write {str(folder)!r}: {error.strerror or error}.", code="output_unwritable"
        ) from error


@contextmanager
def _one_line(repository: str) -> Iterator[None]:
    """The hub's errors as errors of ours, with what to do."""
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"Expected the model {repository!r} on the hub but there is none that may be read.",
            remedy="Check the name; for a private one log in with `hf auth login`.",
            code="hub_missing",
        ) from error
    except HFValidationError as error:
        raise InputError(f"Expected {SCHEME}user/name but got {repository!r}: {error}.", code="bad_option") from error
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", "no status")
        raise InputError(
            f"The hub refused {repository!r}: {str(error).splitlines()[0]} ({status}).",
            remedy="To write, log in with `hf auth login`, or set HF_TOKEN.",
            code="hub_refused",
        ) from error
    except Exception as error:
        # what the library's HTTP client raises it lets through; which client that is depends on its version
        client = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")
        if not (client or isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError)):
            raise
        raise InputError(
            f"Expected the Hugging Face hub to answer for {repository!r} but it cannot be reached.",
            remedy=OFFLINE,
            code="hub_unreachable",
        ) from error
