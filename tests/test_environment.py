"""The project's own files agree with each other: conda and pip, constraints, rooms, README, shipped files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def all_requirements() -> list[Requirement]:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in PROJECT["dependencies"] + extras]


def test_conda_environment_installs_this_project_with_all_extras() -> None:
    conda = [item for item in CONDA["dependencies"] if isinstance(item, str)]
    pip = next(item["pip"] for item in CONDA["dependencies"] if isinstance(item, dict))
    assert {"python=3.11", "ffmpeg", "pip"} <= set(conda)
    editable = next(line for line in pip if line.startswith("-e "))
    extras = set(re.fullmatch(r"-e \.\[(.*)\]", editable)[1].split(","))  # type: ignore[index]
    assert extras == set(PROJECT["optional-dependencies"])
    assert "-c constraints.txt" in pip
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11")


def test_constraints_pin_every_requirement_within_its_bounds() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {Requirement(line).name.lower().replace("_", "-"): Requirement(line).specifier for line in lines}
    for requirement in all_requirements():
        exact = next(iter(pinned[requirement.name.lower().replace("_", "-")]))
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), requirement


def test_packages_asked_for_by_the_user_are_required_and_used() -> None:
    required = {requirement.name.lower() for requirement in all_requirements()}
    source = "\n".join(
        path.read_text() for room in ("data", "extractors", "lamb", "pipeline") for path in (ROOT / room).rglob("*.py")
    )
    # mediapipe brings opencv-contrib-python, the superset of opencv-python; the two must not be installed together.
    for package, imported in (
        ("torch", "import torch"),
        ("mediapipe", "cv2"),
        ("librosa", "import librosa"),
        ("openai-whisper", "import whisper"),
        ("gensim", "from gensim"),
        ("ffmpeg-python", "import ffmpeg"),
        ("pytest", ""),
    ):
        assert package in required
        assert imported in source, f"{package} is required but never imported"


def test_no_pickle_and_no_shell_in_the_code() -> None:
    for room in ("data", "extractors", "lamb", "pipeline"):
        for path in (ROOT / room).rglob("*.py"):
            code = path.read_text()
            if path == ROOT / "data" / "foreign.py":  # the one restricted reader of other people's files
                assert not re.search(r"pickle\.(loads?|dumps?|_?Pickler|_Unpickler)\b", code), path
                continue
            # the one that writes one, for a tool that reads nothing else
            if path == ROOT / "data" / "exports" / "mmsa_pkl.py":
                assert not re.search(r"pickle\.(loads?|_?Unpickler)\b", code), path
                continue
            assert not re.search(r"^\s*(import|from) (pickle|joblib|dill|shelve)\b", code, re.MULTILINE), path
            assert "shell=True" not in code, path  # the rule itself: no shell strings anywhere
            for call in re.finditer(r"torch\.load\(", code):
                assert "weights_only=True" in code[call.start() : call.start() + 200], path


def test_help_answers_without_heavy_imports() -> None:
    heavy = ("torch", "numpy", "cv2", "mediapipe", "librosa", "gensim", "whisper", "faster_whisper", "scipy", "av")
    code = (
        "import sys\nfrom pipeline.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert "predict" in done.stdout


def test_every_command_has_help_with_an_example() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in (
        ["predict"],
        ["extract"],
        ["doctor"],
        ["demo"],
        ["train"],
        ["evaluate"],
        ["compare"],
        ["explain"],
        ["dataset", "build"],
        ["dataset", "check"],
        ["dataset", "sources"],
        ["dataset", "import"],
        ["dataset", "export"],
        ["label"],
        ["annotate"],
        ["push"],
        ["pull"],
        ["weights", "list"],
        ["weights", "verify"],
        ["weights", "fetch"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *command, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "Example: lamb " + command[0] in done.stdout
        assert "lamb " + command[0] in readme


def test_rooms_import_only_what_they_may() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_tests_of_one_group_share_a_worker(tmp_path: Path) -> None:
    """pytest 9.2 with pytest-xdist 3.8 spreads them without a word, and what they share is made twice."""
    (tmp_path / "test_group.py").write_text(
        "import os, time, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test(number):\n"
        f"    open({str(tmp_path)!r} + f'/{{os.environ[\"PYTEST_XDIST_WORKER\"]}}-{{number}}', 'w').close()\n"
        "    time.sleep(0.2)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "-p",
        "no:cacheprovider",
        "test_group.py",
    ]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert len({path.name.partition("-")[0] for path in tmp_path.glob("gw*")}) == 1
    assert len(list(tmp_path.glob("gw*"))) == 4
