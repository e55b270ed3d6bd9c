"""What an actor of each stage of a cluster run takes from its node, and which stages share an operator.

In: needs per stage, the nodes. Out: operators and what they ask Ray for. Memory in bytes.

    needs = parse_needs(["speech=1,0.25"], memory=3 * 10**9)
    operators = grouped(plan, lambda stage: needs.get(stage, Needs()))   # [("open", "acoustic", "facial"), ("speech",), …]
    fit(operators, of, [{"CPU": 8.0, "memory": 30e9}])                   # {("open", …): Needs(cpus=1.0, …), …}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from data.errors import InputError
from pipeline.stages import PARTS, Plan, Work

STAGES: tuple[Work, ...] = ("open", *PARTS, "finish")
Operator = tuple[Work, ...]


@dataclass(frozen=True)
class Needs:
    """What one actor of a stage takes from its node; shares of a CPU or GPU are allowed."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 3 * 10**9


def parse_needs(given: Sequence[str], memory: int) -> dict[Work, Needs]:
    """``["speech=2,0.5,6"]``: CPUs, GPUs (default 0) and GB of memory (default ``memory``) of one actor of a stage.

    Raises InputError (bad_option).
    """
    needs: dict[Work, Needs] = {}
    for text in given:
        name, _, numbers = text.partition("=")
        stage = next((one for one in STAGES if one == name), None)
        try:
            said = [float(number) for number in numbers.split(",")]
            cpus, gpus, gigabytes = [*said, *(0.0, memory / 1e9)[len(said) - 1 :]]
            wrong = stage is None or not (cpus > 0 and gpus >= 0 and gigabytes > 0)
        except ValueError:
            wrong = True
        if wrong:
            raise InputError(
                f"Expected --needs STAGE=CPUS[,GPUS[,GB]] but got {text!r}.",
                code="bad_option",
                remedy=f"Stages are {', '.join(STAGES)}.",
            )
        needs[stage] = Needs(cpus, gpus, int(gigabytes * 1e9))  # type: ignore[index]
    return needs


def grouped(plan: Plan, of: Callable[[Work], Needs]) -> list[Operator]:
    """Operators in an order that respects what waits for what: neighbouring stages with the same needs together, so that a
    file is fetched once for all of them."""
    groups: list[list[Work]] = [["open"]]
    left: list[Work] = list(plan.stages)
    left.append("finish")
    while left:
        ready: list[Work] = [stage for stage in left if not set(plan.waits_for(stage)) & set(left)]
        alike: list[Work] = [stage for stage in ready if of(stage) == of(groups[-1][0])]
        stage = (alike or ready)[0]
        left.remove(stage)
        if of(stage) == of(groups[-1][0]):
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return [tuple(group) for group in groups]


def fit(
    operators: Sequence[Operator], of: Callable[[Work], Needs], nodes: Sequence[Mapping[str, float]]
) -> dict[Operator, Needs]:
    """What an actor of each operator asks Ray for.

    Less than its needs where the smallest of ``nodes`` could not hold one actor of each: there they share it, so that the run
    goes on when that node is the only one left. ``nodes`` are Ray's resources; none yet, and nothing is scaled.
    """
    wanted = {stages: of(stages[0]) for stages in operators}
    cpus = min((node["CPU"] for node in nodes), default=float("inf"))
    memory = min((node.get("memory", 0.0) for node in nodes), default=float("inf"))
    cpu_share = min(1.0, cpus / sum(needs.cpus for needs in wanted.values()))
    memory_share = min(1.0, memory / sum(needs.memory for needs in wanted.values()))
    return {
        stages: replace(
            needs,
            cpus=int(needs.cpus * cpu_share * 1000) / 1000,  # Ray counts in ten-thousandths; rounded down, all fit
            memory=int(needs.memory * memory_share),
        )
        for stages, needs in wanted.items()
    }
