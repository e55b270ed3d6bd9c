"""Cluster runs: on Ray where it is installed (two nodes of its own), and their operators and stores without it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipeline.crew
from data.errors import InputError
from pipeline import cluster_stage
from pipeline.books import MARKER, Done, take_over
from pipeline.cluster_needs import Needs, fit, grouped, parse_needs
from pipeline.cluster_stage import Job, row
from pipeline.remote_store import RemoteStore, list_media, local_copy, open_store
from pipeline.settings import PipelineSettings
from pipeline.stages import Item
from tests.fake_cluster import FakeStages, fake_cluster_run, fake_job
from tests.fake_run import complete, fake_run
from tests.fake_worker import FakePlan
from tests.media_maker import moving_picture, picture_and_tone, tone

fsspec = pytest.importorskip("fsspec")


pytestmark = pytest.mark.xdist_group("ray")  # one cluster at a time: each starts a dozen processes


@pytest.fixture(autouse=True)
def _real_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake runs put fake workers into this process; here that ends with the test, and one of another file does not count."""
    monkeypatch.setattr(pipeline.crew, "WORKER", [sys.executable, "-m", "pipeline.worker"])


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty place in fsspec's memory: an object store of this process."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield "memory://bucket"
    files.store.clear()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Seven files for fake workers: five contents, one of them twice, one broken."""
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.mp4").write_text(f"content {number}")
    (folder / "deep" / "3.mp4").write_text("content 3")
    (folder / "broken.mp4").write_text("broken")
    return folder


def results(output: Path) -> dict[str, Any]:
    """All that a run promises: every file but the cache, without the seconds that stages took."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_file() and not name.startswith("cache/") and name != MARKER:  # says where the videos are
            found[name] = path.read_bytes()
    table = pq.read_table(output / "files.parquet").to_pylist()
    found["files.parquet"] = [{k: v for k, v in one.items() if not k.startswith("seconds")} for one in table]
    return found


def n_calls(marks: Path) -> int:
    """How many stages the fake workers did."""
    return len((marks / "calls").read_text().splitlines())


# ---- what needs no Ray ------------------------------------------------------------------------------------------------


def test_a_remote_store_keeps_whole_objects(bucket: str) -> None:
    store = RemoteStore(f"{bucket}/results")
    assert store.empty()
    assert store.read("cache/a") is None
    assert not store.exists("cache/a")
    store.write("cache/a", b"one")
    store.write("cache/a", b"two")
    assert store.read("cache/a") == b"two"
    assert store.exists("cache/a")
    assert not store.exists("cache"), "a folder is no object"
    with store.scratch() as folder:
        (folder / "part").write_bytes(b"table")
        store.publish_file(folder / "part", "labels.parquet")
    assert fsspec.filesystem("memory").cat("/bucket/results/labels.parquet") == b"table"
    store.remove("cache/a")
    store.remove("cache/a")
    assert store.read("cache/a") is None
    assert not store.empty()


def test_a_store_that_is_no_object_store_moves_what_is_whole(tmp_path: Path) -> None:
    store = RemoteStore(f"local://{tmp_path}/out")
    assert not store.whole
    store.write("json/deep/a.json", b"{}")
    assert (tmp_path / "out" / "json" / "deep" / "a.json").read_bytes() == b"{}"
    assert list((tmp_path / "out" / ".partial").iterdir()) == []


def test_unknown_urls_say_what_is_missing() -> None:
    with pytest.raises(InputError, match="nosuch") as caught:
        RemoteStore("nosuch://bucket/results")
    assert caught.value.code == "bad_url"


def test_listing_a_bucket(bucket: str) -> None:
    files = fsspec.filesystem("memory")
    for name in ("b.mp4", "a.MKV", "deep/er/c.wav", "notes.txt", ".hidden.mp4", ".git/d.mp4", "out/json/e.mp4"):
        files.pipe_file(f"/bucket/{name}", name.encode())
    items = list_media(bucket, exclude=f"{bucket}/out")
    assert [(item.name, item.size) for item in items] == [("a.MKV", 5), ("b.mp4", 5), ("deep/er/c.wav", 13)]
    with pytest.raises(InputError) as caught:
        list_media("memory://nobucket")
    assert caught.value.code == "not_found"


def test_a_local_copy_is_there_while_it_is_needed(bucket: str, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/deep/a#1?.mp4", b"first")
    (item,) = list_media(bucket)
    with local_copy(item, tmp_path) as local:
        assert Path(local.path).read_bytes() == b"first"
        assert (local.name, Path(local.path).parent) == ("deep/a#1?.mp4", tmp_path)
        local.check()
    assert list(tmp_path.iterdir()) == []
    files.pipe_file("/bucket/deep/a#1?.mp4", b"another")
    with pytest.raises(InputError) as caught, local_copy(item, tmp_path):
        pass
    assert caught.value.code == "changed"
    files.rm_file("/bucket/deep/a#1?.mp4")
    with pytest.raises(InputError) as caught, local_copy(item, tmp_path):
        pass
    assert caught.value.code == "vanished"
    assert list(tmp_path.iterdir()) == []


def test_stages_with_the_same_needs_share_an_operator() -> None:
    plan: Any = FakePlan()
    assert grouped(plan, lambda stage: Needs()) == [("open", "speech", "acoustic", "facial", "finish")]
    needs = {"speech": Needs(gpus=0.25)}
    of = lambda stage: needs.get(stage, Needs())  # noqa: E731
    assert grouped(plan, of) == [("open", "acoustic", "facial"), ("speech",), ("finish",)]
    plan.waits_for = lambda stage: {"finish": plan.stages, "facial": ("speech",)}.get(stage, ())
    assert grouped(plan, of) == [("open", "acoustic"), ("speech",), ("facial", "finish")]


def test_operators_share_a_small_node() -> None:
    needs = {"speech": Needs(gpus=0.25, memory=10**9)}
    of = lambda stage: needs.get(stage, Needs())  # noqa: E731
    operators: Any = [("open",), ("speech",), ("finish",)]
    large = {"CPU": 8.0, "memory": 64e9}
    assert fit(operators, of, [large])["speech",] == needs["speech"]
    shared = fit(operators, of, [large, {"CPU": 1.0, "memory": 3.5e9}])
    assert sum(one.cpus for one in shared.values()) <= 1
    assert sum(one.memory for one in shared.values()) <= 3.5e9
    assert min(one.cpus for one in shared.values()) > 0.3


def test_needs_are_read_and_refused() -> None:
    given = parse_needs(["speech=1,0.25", "facial=2,0,6", "open=0.5"], 3 * 10**9)
    assert given == {
        "speech": Needs(1, 0.25, 3 * 10**9), "facial": Needs(2, 0, 6 * 10**9), "open": Needs(0.5, 0, 3 * 10**9),
    }  # fmt: skip
    for wrong in ("speech", "speech=", "speech=0", "voice=1", "speech=1,2,3,4", "speech=1,-1", "speech=nan"):
        with pytest.raises(InputError, match="--needs"):
            parse_needs([wrong], 1)


def states(operator: FakeStages, items: list[Item]) -> dict[str, dict[str, Any]]:
    """What comes out of an operator."""
    out = [json.loads(operator({"file": row(item)})["file"]) for item in items]
    return {state["item"]["name"]: state for state in out}


def test_an_operator_works_from_one_bucket_into_another(videos: Path, bucket: str, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for path in videos.rglob("*.mp4"):
        files.pipe_file(f"/bucket/videos/{path.relative_to(videos)}", path.read_bytes())
    job = fake_job(f"{bucket}/videos", f"{bucket}/results", tmp_path / "marks")
    items = list_media(job.folder)
    operator = FakeStages(job, ("open", "speech", "acoustic", "facial", "finish"))
    first = states(operator, items)
    assert [state["done"]["outcome"] for state in first.values()].count("ok") == 6
    assert first["broken.mp4"]["error"]["code"] == "not_media"
    assert list((operator.scratch.folder / "cache").rglob("*.*")) == [], "nothing stays on the node"
    n_first = n_calls(tmp_path / "marks")
    assert all(state["done"]["cached"] for state in states(operator, items).values())
    assert n_calls(tmp_path / "marks") == n_first, "nothing is done twice"
    operator.close()
    assert not operator.scratch.folder.exists()
    complete(fake_run(videos, tmp_path / "local", tmp_path / "more"))
    for path in (tmp_path / "local" / "json").rglob("*.json"):
        name = path.relative_to(tmp_path / "local").as_posix()
        assert files.cat(f"/bucket/results/{name}") == path.read_bytes()


def test_a_file_that_kills_hangs_or_bloats_costs_itself_alone(tmp_path: Path) -> None:
    folder, output, marks = tmp_path / "videos", tmp_path / "out", tmp_path / "marks"
    folder.mkdir()
    for name in ("die", "hang", "eat", "die once", "good"):
        (folder / f"{name}.mp4").write_text(name)
    job = fake_job(
        str(folder), str(output), marks, time_limit_s=8.0, time_limit_per_s=0.0, memory_limit=3 * 10**8
    )  # fmt: skip
    operator = FakeStages(job, ("open", "speech", "acoustic", "facial", "finish"))
    found = states(operator, list_media(job.folder))
    operator.close()
    codes = {name: state.get("error", {}).get("code") for name, state in found.items()}
    assert codes == {
        "die.mp4": "worker_died", "hang.mp4": "time_limit", "eat.mp4": "memory_limit", "die once.mp4": None, "good.mp4": None,
    }  # fmt: skip


def test_a_damaged_part_is_removed_and_made_again(videos: Path, tmp_path: Path) -> None:
    job = fake_job(str(videos), str(tmp_path / "out"), tmp_path / "marks")
    (item,) = [item for item in list_media(job.folder) if item.name == "0.mp4"]
    halves = FakeStages(job, ("open", "speech", "acoustic", "facial")), FakeStages(job, ("finish",))
    state = halves[0]({"file": row(item)})
    speech = next((tmp_path / "out" / "cache" / "speech").iterdir())
    good = speech.read_bytes()
    speech.write_bytes(good[:5])
    assert json.loads(halves[1](state)["file"])["error"]["code"] == "damaged"
    assert not speech.exists()
    again = halves[1](halves[0]({"file": row(item)}))
    assert json.loads(again["file"])["done"]["outcome"] == "ok"
    assert speech.read_bytes() == good
    for operator in halves:
        operator.close()


def test_a_file_that_ends_actors_is_given_up(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors that replace dead ones suspect the first file they work on, and only that."""
    monkeypatch.setattr(cluster_stage, "_reborn", lambda: True)
    job = fake_job(str(videos), str(tmp_path / "out"), tmp_path / "marks")
    items = list_media(job.folder)
    for n_died in range(1, cluster_stage.ACTOR_TRIES):
        operator = FakeStages(job, ("open",))
        with pytest.raises(KeyboardInterrupt), operator._counted(items[0].name):
            raise KeyboardInterrupt  # as a death: nothing is tidied up
        assert [path.read_bytes() for path in attempts(tmp_path)] == [str(n_died).encode()]
        operator.close()
    operator = FakeStages(job, ("open", "speech", "acoustic", "facial", "finish"))
    found = states(operator, items)
    operator.close()
    assert {name: state["error"]["code"] for name, state in found.items() if "error" in state} == {
        items[0].name: "worker_died", "broken.mp4": "not_media",
    }  # fmt: skip
    assert attempts(tmp_path) == []


def attempts(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "out" / "cache" / "attempts").rglob("*") if path.is_file()]


def test_the_output_is_ours_or_empty(bucket: str) -> None:
    for _ in range(2):
        take_over(open_store(f"{bucket}/results"), f"{bucket}/videos")
    with pytest.raises(InputError, match="memory://bucket/videos") as caught:
        take_over(open_store(f"{bucket}/results"), f"{bucket}/others")
    assert caught.value.code == "output_exists"
    fsspec.filesystem("memory").pipe_file("/bucket/theirs/a.txt", b"")
    with pytest.raises(InputError) as caught:
        take_over(open_store(f"{bucket}/theirs"), "videos")
    assert caught.value.code == "output_exists"


# ---- on a Ray cluster -------------------------------------------------------------------------------------------------


class Cluster:
    """A head and nodes with one CPU each."""

    def __init__(self) -> None:
        from pipeline.cluster import connect, import_ray

        import_ray()
        from ray.cluster_utils import Cluster as RayCluster

        small = {"num_cpus": 1, "object_store_memory": 80 * 10**6}
        self.small = small
        self.ray = RayCluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        self.node = self.ray.add_node(**small)
        connect(self.ray.address)

    def kill_node(self) -> None:
        self.ray.remove_node(self.node, allow_graceful=False)

    def heal(self) -> None:
        if self.node not in self.ray.worker_nodes:
            self.node = self.ray.add_node(**self.small)

    def actors_on_node(self) -> int:
        """Actors alive on the node that can be killed."""
        import ray

        actors = ray._private.state.actors().values()
        return sum(a["State"] == "ALIVE" and a["Address"]["NodeID"] == self.node.node_id for a in actors)


@pytest.fixture(scope="module")
def object_store() -> Iterator[str | None]:
    """The URL of an S3 server of this process; None where moto or s3fs are not installed."""
    try:
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield None
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:  # nodes that start later inherit it
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield "s3://"
    server.stop()


@pytest.fixture(scope="module")
def two_nodes(object_store: str | None) -> Iterator[Cluster]:
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    cluster = Cluster()
    yield cluster
    ray.shutdown()
    cluster.ray.shutdown()


def run_fake(job: Job, needs: Any = None, after_each: Any = lambda done: None) -> list[Done]:
    """A cluster run of fake stages; what it reported."""
    done: list[Done] = []

    def report(one: Done) -> None:
        done.append(one)
        after_each(one)

    run = fake_cluster_run(job, needs)
    run.scan()
    run.work(report)
    run.finish()
    return done


def test_a_cluster_gives_the_bytes_of_one_machine(two_nodes: Cluster, tmp_path: Path) -> None:
    """Real videos through real extractors, each stage an operator of its own; then one machine goes on."""
    from pipeline.cli_folder import run_folder
    from pipeline.cluster import ClusterOptions, plan_run

    videos = tmp_path / "videos"
    (videos / "deep").mkdir(parents=True)
    picture_and_tone(videos / "a.mp4")
    moving_picture(videos / "deep" / "a.mp4", seconds=1.2)
    tone(videos / "c.wav", seconds=1.2)
    (videos / "broken.mp4").write_bytes(b"no video at all")
    settings = PipelineSettings(device="cpu")
    needs = parse_needs(["speech=1,0,1", "facial=1,0,2"], 3 * 10**9)
    run = plan_run(ClusterOptions(str(videos), f"file://{tmp_path}/cluster", needs=needs), settings)
    run.scan()
    done: list[Done] = []
    run.work(done.append)
    outcomes = run.finish()
    assert outcomes == {"partial": 3, "failed: not_media": 1}
    assert {one.name for one in done if one.outcome == "failed"} == {"broken.mp4"}
    assert run_folder(videos, settings, tmp_path / "local", product="labels", workers=1, quiet=True) == 1
    assert results(tmp_path / "cluster") == results(tmp_path / "local")

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cluster" / "cache").rglob("*.safetensors")}
    assert len(kept) == 9
    run_folder(videos, settings, tmp_path / "cluster", product="labels", workers=1, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "one machine has nothing to do again"


def test_a_killed_node_costs_nothing(two_nodes: Cluster, videos: Path, tmp_path: Path) -> None:
    two_nodes.heal()
    seen: list[int] = []

    def kill(done: Done) -> None:
        if not seen and two_nodes.actors_on_node():
            seen.append(two_nodes.actors_on_node())
            two_nodes.kill_node()

    job = fake_job(str(videos), str(tmp_path / "out"), tmp_path / "marks", slow_s=0.4)
    done = run_fake(job, after_each=kill)
    assert seen, "the node was at work when it was killed"
    assert sorted(one.name for one in done) == [item.name for item in list_media(str(videos))]
    complete(fake_run(videos, tmp_path / "local", tmp_path / "more"))
    assert results(tmp_path / "out") == results(tmp_path / "local")
    n_first = n_calls(tmp_path / "marks")
    assert n_first <= n_calls(tmp_path / "more") + 2 * 4, "the node's own files at most are done again"

    again = run_fake(job)
    assert all(one.cached for one in again)
    assert n_calls(tmp_path / "marks") == n_first, "nothing is done twice"


def test_a_file_that_kills_its_actor_costs_itself_alone(two_nodes: Cluster, videos: Path, tmp_path: Path) -> None:
    (videos / "2.mp4").write_text("die with the actor")
    done = run_fake(fake_job(str(videos), str(tmp_path / "out"), tmp_path / "marks"))
    failed = {one.name: one.reasons for one in done if one.outcome == "failed"}
    assert failed == {"2.mp4": ("worker_died",), "broken.mp4": ("not_media",)}
    document = json.loads((tmp_path / "out" / "json" / "2.mp4.json").read_text())
    assert document["files"][0]["error"]["code"] == "worker_died"
    assert attempts(tmp_path) == []


def test_from_one_bucket_into_another(
    two_nodes: Cluster, object_store: str | None, videos: Path, tmp_path: Path
) -> None:
    if object_store is None:
        pytest.skip("moto[server] and s3fs are not installed")
    files = fsspec.filesystem("s3", use_listings_cache=False)
    for name in ("videos", "results"):
        files.mkdir(name)
    files.put(f"{videos}/", "videos/2026/", recursive=True)
    done = run_fake(fake_job("s3://videos/2026", "s3://results/run", tmp_path / "marks"))
    assert {one.name: one.reasons for one in done if one.outcome == "failed"} == {"broken.mp4": ("not_media",)}
    complete(fake_run(videos, tmp_path / "local", tmp_path / "more"))
    files.get("results/run/", f"{tmp_path}/fetched/", recursive=True)
    assert results(tmp_path / "fetched") == results(tmp_path / "local")
    assert all(one.cached for one in run_fake(fake_job("s3://videos/2026", "s3://results/run", tmp_path / "marks")))


def test_no_cluster_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from pipeline.cluster import connect

    if ray.is_initialized():
        ray.shutdown()
    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    started_s = time.monotonic()
    with pytest.raises(InputError, match="ray start --head") as caught:
        connect("auto")
    assert caught.value.code == "no_cluster"
    assert time.monotonic() - started_s < 120
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
