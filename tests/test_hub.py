"""`lamb push` and `lamb pull`: folders and a hub of this process; what travels, what is refused, what is said offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.errors import CheckpointError, InputError
from lamb.checkpoint import Checkpoint
from pipeline.hub import FILES, HubCheckpoint, address, pull, push
from pipeline.predict import starter_checkpoint
from tests.fake_hub import FakeHub
from tests.test_checkpoint import CLIPS, make_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with more in it than may travel."""
    folder = tmp_path / "run"
    make_checkpoint().save(folder / "model")
    (folder / "README.md").write_text("# A card\n")
    (folder / "run.json").write_text("{}")
    (folder / "secret.txt").write_text("mine")
    (folder / "state.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    found = FakeHub()
    yield found
    found.close()


def lamb(home: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with a home of its own, so that no token or cache of this machine's user is read."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**kept, "HF_HOME": str(home), **environment},
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_and_back_is_the_same_to_the_bit(run: Path, tmp_path: Path) -> None:
    expected = {name: (run / name).read_bytes() for name in FILES}
    push(run, str(tmp_path / "stick"))
    assert contents(tmp_path / "stick") == expected
    pulled = pull(str(tmp_path / "stick"), tmp_path / "back")
    assert contents(tmp_path / "back") == expected
    original = Checkpoint.load(run)
    assert pulled.fingerprint() == original.fingerprint()
    assert np.array_equal(Checkpoint.load(tmp_path / "back").predict(CLIPS), original.predict(CLIPS))


def test_the_mixin_s_own_methods(run: Path, tmp_path: Path) -> None:
    HubCheckpoint(run).save_pretrained(tmp_path / "saved")
    assert set(contents(tmp_path / "saved")) == set(FILES)  # no config.json with this machine's paths
    loaded = HubCheckpoint.from_pretrained(tmp_path / "saved")
    assert loaded.checkpoint.fingerprint() == Checkpoint.load(run).fingerprint()


def test_the_starter_can_be_pushed(tmp_path: Path) -> None:
    push(starter_checkpoint(), str(tmp_path / "copy"))
    assert Checkpoint.load(tmp_path / "copy").fingerprint() == Checkpoint.load(starter_checkpoint()).fingerprint()
    assert (tmp_path / "copy" / "README.md").read_text().startswith("# Starter checkpoint")


def test_what_is_damaged_or_in_the_way_is_refused(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "stick"
    push(run, str(place))
    with pytest.raises(InputError, match="something is there"):
        push(run, str(place))
    with pytest.raises(InputError, match="something is there"):
        pull(str(place), run)
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match="sha256 differs"):
        pull(str(place), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "stick"]  # nothing half done


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://ada/lamb", "ada/lamb"),
        ("./ada/lamb", Path("ada/lamb")),
        ("/ada/lamb", Path("/ada/lamb")),
        ("model", Path("model")),
        ("a/b/c", Path("a/b/c")),
    ],
)
def test_addresses(text: str, expected: str | Path) -> None:
    assert address(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ada/lamb", "hf://ada/lamb for the hub, ./ada/lamb for a folder"),
        ("hf://lamb", "hf://user/name"),
        ("hf://a/b/c", "hf://user/name"),
        ("https://huggingface.co/ada/lamb", "hf://user/name"),
    ],
)
def test_addresses_that_are_neither(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        address(text)
    assert message in str(caught.value)


def test_to_the_hub_and_back(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    home, endpoint = tmp_path / "home", {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_made_up"}
    pushed = lamb(home, "push", run, "hf://ada/lamb-one", "--private", **endpoint)
    assert pushed.returncode == 0, pushed.stderr
    assert hub.private == {"ada/lamb-one": True}
    assert hub.files["ada/lamb-one"] == {name: (run / name).read_bytes() for name in FILES}
    assert "lamb pull hf://ada/lamb-one" in pushed.stdout
    pulled = lamb(home, "pull", "hf://ada/lamb-one", "--output", tmp_path / "back", **endpoint)
    assert pulled.returncode == 0, pulled.stderr
    assert contents(tmp_path / "back") == hub.files["ada/lamb-one"]
    assert f"lamb predict --checkpoint {tmp_path / 'back'} clip.mp4" in pulled.stdout
    assert not [asked for asked in hub.asked if "telemetry" in asked]

    hub.files["ada/lamb-one"]["model.json"] = b'{"kind": "lamb-checkpoint", "schema": 9}'
    other = lamb(tmp_path / "other", "pull", "hf://ada/lamb-one", "-o", tmp_path / "bad", **endpoint)
    assert other.returncode == 2
    assert "Expected checkpoint schema 1" in other.stderr
    assert not (tmp_path / "bad").exists()


def test_errors_of_the_hub_are_one_line(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    home, endpoint = tmp_path / "home", {"HF_ENDPOINT": hub.url}
    cases = [
        (("pull", "hf://ada/nothing", "-o", tmp_path / "x"), endpoint | {"HF_TOKEN": "hf_x"}, "there is none"),
        (("push", run, "hf://ada/one"), endpoint, "hf auth login"),  # no token
        (("pull", "hf://ada/one", "-o", tmp_path / "x"), {"HF_HUB_OFFLINE": "1"}, "cannot be reached"),
        (("push", run, "hf://ada/one"), {"HF_HUB_OFFLINE": "1"}, "cannot be reached"),
        (("pull", "hf://ada/one", "-o", tmp_path / "x"), {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
        (("pull", tmp_path / "none", "-o", tmp_path / "x"), {}, "hf://user/name"),
    ]
    for arguments, environment, message in cases:
        done = lamb(home, *arguments, **environment)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_needs_no_network(run: Path, tmp_path: Path) -> None:
    """Whatever opens a socket fails, and pushing and pulling folders works."""
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise RuntimeError('network')\n"
        "socket.socket.connect = refuse\n"
        "from pathlib import Path\n"
        "from pipeline.hub import pull, push\n"
        "push(Path(sys.argv[1]), sys.argv[2]); pull(sys.argv[2], Path(sys.argv[3]))\n"
    )
    arguments = [sys.executable, "-c", code, str(run), str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "b" / "model.json").read_text())["kind"] == "lamb-checkpoint"
