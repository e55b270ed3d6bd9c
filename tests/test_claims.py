"""Claims by real processes: races, kills, stopped holders, holders on other machines, hearts; one process against a dict."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from pipeline import claims as module
from pipeline.claims import Claims

ROOT = Path(__file__).resolve().parents[1]
NAMES = [f"clips/{i:03d}.mp4" for i in range(200)]

# Reads one request per line, answers with one line of JSON: a user of claims that the tests steer.
WORKER = """
import json, os, random, sys, time
from pathlib import Path
from pipeline.claims import Claims
users = {}
print(json.dumps(os.getpid()), flush=True)
for line in sys.stdin:
    what, folder, stale_s, names, start_s = json.loads(line)
    claims = users.setdefault(folder, Claims(Path(folder), stale_s=stale_s))
    while time.time() < start_s:  # all at the same moment
        pass
    if what == "take":
        random.shuffle(names)
        answer = [name for name in names if claims.take(name)]
    elif what == "work":  # take, look for the result, do it, give it back
        answer = []
        for name in names:
            if claims.take(name):
                result = Path(folder, name.replace("/", "-") + ".result")
                if not result.exists():
                    time.sleep(0.0005)
                    result.touch()
                    answer.append(name)
                claims.release(name)
    elif what == "release":
        answer = [claims.release(name) for name in names]
    elif what == "die in take over":
        os.replace = lambda *paths: os.kill(os.getpid(), 9)
        answer = [claims.take(name) for name in names]
    print(json.dumps(answer), flush=True)
"""


class Worker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def send(self, what: str, folder: Path, names: list[str], stale_s: float = 3600.0, start_s: float = 0.0) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([what, str(folder), stale_s, names, start_s]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> list[str]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def take(self, folder: Path, *names: str, stale_s: float = 3600.0) -> list[str]:
        self.send("take", folder, list(names), stale_s)
        return sorted(self.answer())

    def kill(self, *, reaped: bool = True) -> None:
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))


@contextmanager
def workers(number: int) -> Iterator[list[Worker]]:
    started = [Worker() for _ in range(number)]
    try:
        for worker in started:
            worker.answer()  # has imported everything
        yield started
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.communicate()


@pytest.fixture(scope="module")
def eight() -> Iterator[list[Worker]]:
    with workers(8) as started:
        yield started


@pytest.fixture
def victim() -> Iterator[Worker]:
    """A process to kill or stop."""
    with workers(1) as (worker,):
        yield worker


def race(team: list[Worker], what: str, folder: Path, names: list[str], stale_s: float = 3600.0) -> list[str]:
    start_s = time.time() + 0.1
    for worker in team:
        worker.send(what, folder, names, stale_s, start_s)
    return sorted(name for worker in team for name in worker.answer())


def foreign(folder: Path, name: str, *, age_s: float, **changes: object) -> Path:
    """A claim as another machine would have written it, last renewed ``age_s`` ago by the file system's clock."""
    content = {"host": "elsewhere", "machine": "elsewhere 1 2", "pid": 4321, "started": "99", "since_s": 1.7e9}
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.claim"
    path.write_text(json.dumps(content | {"token": f"{age_s} {name}", "name": name} | changes))
    aged(path, age_s)
    return path


def aged(path: Path, age_s: float) -> None:
    path.touch()
    now_s = path.stat().st_mtime
    os.utime(path, (now_s - age_s, now_s - age_s))


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_eight_processes_take_each_of_200_names_once(tmp_path: Path, eight: list[Worker]) -> None:
    assert race(eight, "take", tmp_path, NAMES) == NAMES
    assert race(eight, "take", tmp_path, NAMES) == NAMES  # each has its own again, and no more
    assert len(list(tmp_path.iterdir())) == 200


def test_work_that_is_given_back_is_not_done_again(tmp_path: Path, eight: list[Worker]) -> None:
    assert race(eight, "work", tmp_path, NAMES) == NAMES
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".result"] * 200


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_names_of_a_killed_process_are_free_at_once(tmp_path: Path, victim: Worker, reaped: bool) -> None:
    with Claims(tmp_path, stale_s=3600) as claims:
        assert victim.take(tmp_path, "a", "b") == ["a", "b"]
        assert not claims.take("a")
        holder = claims.holder("a")
        assert holder is not None
        assert (holder.host, holder.pid) == (socket.gethostname(), victim.process.pid)
        assert abs(holder.since_s - time.time()) < 60
        victim.kill(reaped=reaped)
        assert claims.holder("a") is None
        assert claims.take("a")
        assert claims.take("b")
        assert len(list(tmp_path.iterdir())) == 2


def test_names_of_a_killed_process_go_to_one_of_eight(tmp_path: Path, victim: Worker, eight: list[Worker]) -> None:
    assert victim.take(tmp_path, *NAMES) == NAMES
    victim.kill()
    assert race(eight, "take", tmp_path, NAMES) == NAMES
    assert hidden(tmp_path) == []


def test_a_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        claims.take("a")
        content = json.loads(next(tmp_path.glob("*.claim")).read_bytes())
    here = {key: content[key] for key in ("host", "machine", "pid", "started")}
    foreign(tmp_path, "b", age_s=0, **here | {"started": "1"})
    foreign(tmp_path, "c", age_s=0, **here)
    with Claims(tmp_path) as claims:
        assert claims.take("b")  # our number, another start
        assert not claims.take("c")  # our number, our start: another object of this process


def test_another_machine_is_respected_until_its_time_is_over(tmp_path: Path, eight: list[Worker]) -> None:
    names = NAMES[:60]
    young = foreign(tmp_path, "young", age_s=20)
    for name in names:
        foreign(tmp_path, name, age_s=61)
    assert race(eight, "take", tmp_path, [*names, "young"], stale_s=60) == names
    assert hidden(tmp_path) == []
    with Claims(tmp_path, stale_s=60) as claims:
        holder = claims.holder("young")
        assert holder is not None
        assert (holder.host, holder.pid, holder.since_s) == ("elsewhere", 4321, 1.7e9)
        aged(young, 61)
        assert claims.holder("young") is None
    assert race(eight, "take", tmp_path, ["young"], stale_s=60) == ["young"]


def test_ages_are_by_the_file_system_s_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path, "alive", age_s=0)
    foreign(tmp_path, "dead", age_s=61)
    ahead = foreign(tmp_path, "ahead", age_s=-61)  # the server's clock was set back
    monkeypatch.setattr(time, "time", lambda: ahead.stat().st_mtime + 1e6)
    with Claims(tmp_path, stale_s=60) as claims:
        assert [claims.take(name) for name in ("alive", "dead", "ahead")] == [False, True, True]


def test_a_claim_renewed_while_it_is_judged_is_not_stolen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = foreign(tmp_path, "a", age_s=61)
    content = path.read_bytes()
    with Claims(tmp_path, stale_s=60) as claims:
        judge = claims._stale

        def late(found: module._Found) -> bool:
            verdict = judge(found)
            os.utime(path)  # its heart beats at the last moment
            return verdict

        monkeypatch.setattr(claims, "_stale", late)
        assert not claims.take("a")
    assert path.read_bytes() == content
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "x"', b"[1]", b"\xff\xfe", b"[" * 100_000], ids=repr)
def test_garbage_is_judged_by_its_time(tmp_path: Path, content: bytes) -> None:
    path = foreign(tmp_path, "a", age_s=0)
    path.write_bytes(content)
    with Claims(tmp_path, stale_s=60) as claims:
        holder = claims.holder("a")
        assert holder is not None
        assert (holder.host, holder.pid) == ("", 0)
        assert not claims.take("a")
        aged(path, 61)
        assert claims.holder("a") is None
        assert claims.take("a")


def test_who_dies_while_taking_over_is_taken_over(tmp_path: Path, victim: Worker, eight: list[Worker]) -> None:
    foreign(tmp_path, "a", age_s=3601)
    victim.send("die in take over", tmp_path, ["a"])
    victim.process.wait(timeout=60)
    assert any(name.endswith(".over") for name in hidden(tmp_path))
    assert race(eight, "take", tmp_path, ["a"]) == ["a"]
    assert not any(name.endswith(".over") for name in hidden(tmp_path))


def test_the_heart_beats_and_a_stopped_holder_loses(tmp_path: Path, victim: Worker) -> None:
    stale_s = 2.0
    with Claims(tmp_path, stale_s=stale_s) as claims:
        assert victim.take(tmp_path, "a", stale_s=stale_s) == ["a"]
        end_s = time.monotonic() + 1.5 * stale_s
        while time.monotonic() < end_s:
            assert not claims.take("a")
            time.sleep(0.1)
        os.kill(victim.process.pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        while not claims.take("a"):
            assert time.monotonic() < stopped_s + 20
            time.sleep(0.05)
        assert time.monotonic() - stopped_s > stale_s / 2  # its last beat was about a quarter earlier at most
        claims._stop.set()  # our own heart; that of the stopped one must not keep our claim alive
        assert claims._heart
        claims._heart.join()
        (path,) = tmp_path.iterdir()
        content, last_s = path.read_bytes(), path.stat().st_mtime
        os.kill(victim.process.pid, signal.SIGCONT)
        time.sleep(stale_s / 2)  # two of its beats
        assert victim.take(tmp_path, "a", stale_s=stale_s) == []
        victim.send("release", tmp_path, ["a"], stale_s)
        victim.answer()
        assert (path.read_bytes(), path.stat().st_mtime) == (content, last_s)


def test_release_is_idempotent_and_leaves_others_alone(tmp_path: Path) -> None:
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        assert ours.take("a")
        assert ours.take("a")
        theirs.release("a")
        theirs.release("never taken")
        assert not theirs.take("a")
        ours.release("a")
        ours.release("a")
        assert theirs.take("a")
        ours.release("a")
        assert not ours.take("a")
        shutil.rmtree(tmp_path)
        theirs.release("a")  # the claim is gone with its folder


def test_closed_claims_are_free_and_refuse(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "new" / "folder")
    assert claims.take("a")
    claims.close()
    claims.close()
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    with pytest.raises(RuntimeError, match="closed"):
        claims.take("a")


def test_a_fork_gives_nothing_back(tmp_path: Path) -> None:
    script = """if True:
        import os, sys
        from pathlib import Path
        from pipeline.claims import Claims
        claims = Claims(Path(sys.argv[1]))
        assert claims.take("a")
        child = os.fork()
        if not child:
            try:
                claims.take("b")
            except RuntimeError:
                claims.release("a")
                claims.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert claims.holder("a").pid == os.getpid()
        assert claims.holder("b") is None
    """
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=60)


def test_a_folder_that_is_gone_or_full_is_an_input_error(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(InputError, match="No such file") as caught:
        claims.take("a")
    assert caught.value.code == "output_unwritable"
    claims.close()
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        Claims(tmp_path / "file")
    full = """if True:
        import resource, sys
        from pathlib import Path
        from data.errors import InputError
        from pipeline.claims import Claims
        claims = Claims(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # not one byte more
        try:
            claims.take("a")
        except InputError as error:
            sys.exit(7 if error.code == "output_unwritable" else 1)
    """
    done = subprocess.run([sys.executable, "-c", full, str(tmp_path / "full")], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 7
    assert list((tmp_path / "full").iterdir()) == []
    for stale_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="stale_s"):
            Claims(tmp_path, stale_s=stale_s)


def test_disks_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*paths: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    foreign(tmp_path, "old", age_s=61)
    with Claims(tmp_path, stale_s=60) as ours, Claims(tmp_path, stale_s=60) as theirs:
        assert [ours.take("a"), theirs.take("a"), ours.take("old"), theirs.take("old")] == [True, False, True, False]
        assert hidden(tmp_path) == []


PLAIN = st.sampled_from(["a", "b", "", "c\n" * 500, "clip\udcff.mp4", "clip?.mp4", "\ud800", "é", "e\u0301"])


@given(st.lists(st.tuples(st.sampled_from(["take", "release", "holder"]), st.integers(0, 2), PLAIN), max_size=30))
@settings(max_examples=40, deadline=None)
def test_any_order_of_calls_agrees_with_a_dict(calls: list[tuple[str, int, str]]) -> None:
    owner: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        users = [Claims(folder) for _ in range(3)]
        for what, user, name in calls:
            if what == "take":
                assert users[user].take(name) == (owner.setdefault(name, user) == user)
            elif what == "release":
                users[user].release(name)
                if owner.get(name) == user:
                    del owner[name]
            else:
                assert (users[user].holder(name) is not None) == (name in owner)
            assert len(list(folder.iterdir())) == len(owner)
        for user in users:
            user.close()
        assert list(folder.iterdir()) == []
