"""`lamb label --cluster`: what a person sees of a cluster run. Heavy libraries come late, as in ``cli``.

status = run_on_cluster("auto", "s3://bucket/videos", "s3://bucket/results", settings, needs=["speech=1,0.25"])
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli_options import OK, SOME_FAILED

if TYPE_CHECKING:
    from pipeline.settings import PipelineSettings


def run_on_cluster(
    address: str,
    folder: str,
    output: str,
    settings: PipelineSettings,
    *,
    checkpoint: Path | None = None,
    needs: Sequence[str] = (),
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    log: Path | None = None,
    memory_limit: int = 3 * 10**9,
    **limits: Any,
) -> int:
    """Join the cluster, work, write the tables; returns the exit status. Raises LambError where nothing can start."""
    from pipeline.cluster import ClusterOptions, connect, plan_run
    from pipeline.cluster_needs import fit, grouped, parse_needs
    from pipeline.folder_report import Survey, print_outcomes, progress

    wanted = parse_needs(needs, memory_limit)
    options = ClusterOptions(folder, output, wanted, workers, memory_limit=memory_limit, **limits)
    say = (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    connect(address, workers)
    run = plan_run(options, settings, checkpoint)
    items = run.scan()
    n_cpus, n_gpus = (int(sum(node.get(kind, 0) for node in run.nodes)) for kind in ("CPU", "GPU"))
    n_bytes = sum(item.size for item in items)
    say(f"{len(items):,} files, {n_bytes / 1e9:.1f} GB; {len(run.nodes):,} nodes with {n_cpus:,} CPUs, {n_gpus:,} GPUs")
    for stages, one in fit(grouped(run.plan, run.of), run.of, run.nodes).items():
        said = f"{one.cpus:g} CPUs, {one.gpus:g} GPUs, {one.memory / 1e9:.1f} GB"
        say(f"  {', '.join(stages)}: {said} per actor")
    if dry_run:
        return OK
    # how long the recordings are, the nodes find out: the driver reads none of them
    plan = Survey(len(items), n_bytes, 0, 0.0, len(items), 0.0, False, 0, 0, max(n_cpus, 1), 1.0, False)
    try:
        with progress(plan, quiet, log) as (report, _):
            run.work(report)
        outcomes = run.finish()
    except KeyboardInterrupt:
        say("stopped; what is done is kept, and the same command goes on")
        return 130
    finally:
        with contextlib.suppress(Exception):
            import ray

            ray.shutdown()
    where: Any = output  # a Path would make s3:/bucket of s3://bucket
    print_outcomes(outcomes, where, sys.stdout)
    sys.stdout.flush()
    return SOME_FAILED if any(name.startswith("failed") for name in outcomes) else OK
