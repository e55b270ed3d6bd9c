"""What the LAMB model costs beside the same equations in plain torch modules: time, memory, samples per second.

    python -m benchmarks.model_speed [--repeats 3] [--cases "unaligned b32"] [--only-lamb]

Random data of MOSEI's shape, 300/74/35 columns, one CPU thread; on the GPU too where there is one. Every case runs in a
process of its own, so that its peak memory is its own. "plain" is nn.MultiheadAttention, nn.LayerNorm and nn.Dropout as
eq. 1–8 print them, dropout .1 on attention weights too; before anything is timed, LAMB's weights are put into it and the
logits of both compared. LAMB runs as it is set by default (no dropout on attention weights) and with it.

Times on the CPU are CPU time, which is what one thread takes where nothing else runs; the least of several runs, after a
small one that compiles and is not counted. Memory is the peak above what is held before. "MOSEI-like" lengths have a mean
of a third of the longest; their time per valid step is held against that of full sequences.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.batches import Batch
from data.spec import MODALITIES, Modality
from lamb.model import LAMB
from lamb.objective import objective
from lamb.settings import UNIMODAL, ModelSettings

DIMS = (300, 74, 35)
N_LABELS = 6
DROPOUT = 0.1
AIM = 800 / 3875  # of plain's time, unaligned b32: forward and backward


@dataclass(frozen=True)
class Case:
    """One batch shape: samples, steps of text, audio, visual, and whether lengths vary."""

    name: str
    n_samples: int
    n_steps: tuple[int, int, int]
    varying: bool = False


CASES = [
    Case("aligned b32", 32, (60, 60, 60)),
    Case("aligned b64", 64, (60, 60, 60)),
    Case("unaligned b32", 32, (50, 500, 500)),
    Case("unaligned b64", 64, (50, 500, 500)),
    Case("unaligned b32, MOSEI-like lengths", 32, (50, 500, 500), varying=True),
]
MODELS = ("lamb", "lamb, attention dropout", "plain")


class PlainBlock(nn.Module):
    """Eq. 3 or 4."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        d, p = settings.width, settings.dropout
        self.attention = nn.MultiheadAttention(d, settings.heads, dropout=p, batch_first=True)
        self.attention_norm, self.mlp_norm, self.dropout = nn.LayerNorm(d), nn.LayerNorm(d), nn.Dropout(p)
        self.mlp = plain_perceptron(d, settings.ff_hidden, p)

    def forward(self, x: Tensor, context: Tensor, padding: Tensor) -> Tensor:
        attended, _ = self.attention(x, context, context, key_padding_mask=padding, need_weights=False)
        x = self.attention_norm(x + self.dropout(attended))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


def plain_perceptron(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class PlainLAMB(nn.Module):
    """Eq. 1–7 in torch's modules; padding is masked, not left out."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        d, p = settings.width, settings.dropout
        self.pairs = [(UNIMODAL.index(name[0]), UNIMODAL.index(name[-1])) for name in settings.encoders]
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, d, 1, bias=False) for dim in settings.dims)
        self.blocks = nn.ModuleList(PlainBlock(settings) for _ in self.pairs)
        self.embeddings = nn.Parameter(torch.randn(settings.n_labels, d))
        self.label_attention = nn.MultiheadAttention(d, settings.heads, dropout=p, batch_first=True)
        self.token_attention = nn.MultiheadAttention(d, settings.heads, dropout=p, batch_first=True)
        self.mlp, self.mlp_norm = plain_perceptron(d, settings.decoder_hidden, p), nn.LayerNorm(d)
        self.dropout, self.classifier = nn.Dropout(p), nn.Linear(d, 1)

    def forward(self, batch: Batch) -> Tensor:
        x = [
            convolution(batch.values[name].transpose(1, 2)).transpose(1, 2)  # (N, L, d_a) → (N, d_a, L) → (N, L, d)
            for name, convolution in zip(MODALITIES, self.convolutions, strict=True)
        ]
        padding = [~batch.masks[name] for name in MODALITIES]
        tokens = torch.cat(
            [block(x[a], x[b], padding[b]) for (a, b), block in zip(self.pairs, self.blocks, strict=True)], dim=1
        )
        mask = torch.cat([padding[a] for a, _ in self.pairs], dim=1)
        labels = self.embeddings.expand(len(batch), -1, -1)
        labels, _ = self.label_attention(labels, labels, labels, need_weights=False)
        m, _ = self.token_attention(labels, tokens, tokens, key_padding_mask=mask, need_weights=False)
        return self.classifier(self.mlp_norm(m + self.dropout(self.mlp(m)))).squeeze(-1)

    @torch.no_grad()
    def load(self, model: LAMB) -> PlainLAMB:
        """Take over LAMB's weights."""
        convolutions = dict(model.blending.convolutions.items())
        for name, own in zip(MODALITIES, self.convolutions, strict=True):
            own.load_state_dict(convolutions[name].state_dict())
        for encoder, own in zip(model.blending.encoders.values(), self.blocks, strict=True):
            (layer,) = encoder.layers  # type: ignore[misc]
            own.load_state_dict(_renamed(layer.state_dict()))  # type: ignore[union-attr]
        aggregation = model.aggregation
        assert aggregation is not None
        (layer,) = aggregation.layers
        rest = _renamed(layer.state_dict())
        rest["embeddings"] = aggregation.embeddings
        rest["classifier.weight"], rest["classifier.bias"] = model.classifier.weight, model.classifier.bias  # type: ignore[assignment]
        missing, unexpected = self.load_state_dict(rest, strict=False)
        assert not unexpected, unexpected
        assert all(name.startswith(("convolutions", "blocks")) for name in missing), missing
        return self


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Three projections are one in nn.MultiheadAttention, whose output is called out_proj."""
    result = {name.replace(".output.", ".out_proj."): value for name, value in state.items()}
    for prefix in {name.split(".")[0] for name in state if ".query." in name}:
        for kind in ("weight", "bias"):
            parts = [result.pop(f"{prefix}.{part}.{kind}") for part in ("query", "key", "value")]
            result[f"{prefix}.in_proj_{kind}"] = torch.cat(parts)
    return result


def make_batch(case: Case, seed: int = 0) -> Batch:
    """Random values; MOSEI-like lengths are log-normal around a third of the longest, the same share in each modality."""
    rng = np.random.default_rng(seed)
    shares = np.ones(case.n_samples)
    if case.varying:
        shares = np.clip(rng.lognormal(np.log(0.27), 0.6, case.n_samples), 0.02, 1.0)
        shares[0] = 1.0
    generator = torch.Generator().manual_seed(seed)
    values: dict[Modality, Tensor] = {}
    masks: dict[Modality, Tensor] = {}
    for name, longest, dim in zip(MODALITIES, case.n_steps, DIMS, strict=True):
        lengths = torch.from_numpy(np.maximum(1, np.round(shares * longest)))
        masks[name] = torch.arange(longest) < lengths[:, None]
        values[name] = torch.randn(case.n_samples, longest, dim, generator=generator) * masks[name].unsqueeze(-1)
    labels = (torch.rand(case.n_samples, N_LABELS, generator=generator) < 0.25).float()
    return Batch(values, masks, labels)


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    settings = ModelSettings(dims=DIMS, n_labels=N_LABELS, dropout=DROPOUT)
    if name == "plain":
        return PlainLAMB(settings)
    return LAMB(settings.model_copy(update={"attention_dropout": DROPOUT if "attention" in name else 0.0}))


def check_same() -> float:
    """Largest difference of logits between LAMB and the plain version with LAMB's weights, padded batch, no dropout."""
    settings = ModelSettings(dims=DIMS, n_labels=N_LABELS)
    model = LAMB(settings).eval()
    plain = PlainLAMB(settings).load(model).eval()
    batch = make_batch(Case("", 4, (12, 40, 30), varying=True))
    with torch.no_grad():
        difference = float((model(batch) - plain(batch)).abs().max())
    if not difference < 1e-4:
        raise SystemExit(f"Expected the plain version to compute LAMB's logits but they differ by {difference:.2e}")
    return difference


def measure(model_name: str, case: Case, device: str, repeats: int) -> dict[str, float]:
    """Milliseconds of a forward pass (as in training), of forward and backward, and peak memory in MiB above rest."""
    model, batch = make_model(model_name).to(device).train(), make_batch(case).to(device)
    small = make_batch(Case("", 2, (4, 5, 6))).to(device)
    _passes(model, small, device)  # compiled code is loaded, libraries start up
    before = _peak_bytes(device, reset=True)
    times = [_passes(model, batch, device) for _ in range(repeats + (device == "cuda"))]
    after = _peak_bytes(device)
    forward, both = (1000 * min(column) for column in zip(*times, strict=True))
    return {"forward_ms": forward, "both_ms": both, "peak_mib": (after - before) / 2**20}


def _peak_bytes(device: str, reset: bool = False) -> int:
    """Most memory held so far; with ``reset`` the peak begins anew at what is held now."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM")))
    except OSError:  # not Linux: never less than what compiling took
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _passes(model: nn.Module, batch: Batch, device: str) -> tuple[float, float]:
    def now() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    model.zero_grad(set_to_none=True)
    begin = now()
    loss = objective(model(batch), batch.labels)  # type: ignore[arg-type]
    middle = now()
    loss.backward()
    return middle - begin, now() - begin


def in_a_process(model_name: str, case: Case, device: str, repeats: int) -> dict[str, float]:
    code = (
        "import json, sys, torch; torch.set_num_threads(1); import benchmarks.model_speed as b; a = json.loads(sys.argv[1]);"
        "print(json.dumps(b.measure(a[0], next(c for c in b.CASES if c.name == a[1]), a[2], a[3])))"
    )
    argument = json.dumps([model_name, case.name, device, repeats])
    run = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"Expected {model_name} on {case.name} ({device}) to run but it failed:\n{run.stderr[-1500:]}")
    return json.loads(run.stdout.splitlines()[-1])


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def report(results: dict[tuple[str, str], dict[str, float]], cases: list[Case], models: list[str]) -> list[str]:
    """A Markdown table, and the lines below it."""
    lines = ["| batch | model | forward ms | + backward ms | peak MiB | samples/s | time / plain | memory / plain |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for case in cases:
        plain = results.get((case.name, "plain"))
        for model in models:
            one = results[case.name, model]
            ratios = "| – | – |"
            if plain is not None:
                ratios = (
                    f"| {one['both_ms'] / plain['both_ms']:.2f} | {one['peak_mib'] / max(plain['peak_mib'], 1):.2f} |"
                )
            lines.append(
                f"| {case.name} | {model} | {one['forward_ms']:.0f} | {one['both_ms']:.0f} | {one['peak_mib']:.0f} "
                f"| {1000 * case.n_samples / one['both_ms']:.0f} {ratios}"
            )
    full, varying = "unaligned b32", "unaligned b32, MOSEI-like lengths"
    found = {case.name: case for case in cases}
    if full in found and varying in found:
        steps = {
            name: sum(int(mask.sum()) for mask in make_batch(found[name]).masks.values()) for name in (full, varying)
        }
        lines.append("")
        for model in models:
            per = {name: 1000 * results[name, model]["both_ms"] / steps[name] for name in steps}
            lines.append(
                f"{model}: {per[varying]:.1f} µs per valid step at MOSEI-like lengths ({steps[varying] / steps[full]:.0%} "
                f"of the steps), {per[full]:.1f} µs in full sequences: ratio {per[varying] / per[full]:.2f}"
            )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", help="names of batches; default all")
    parser.add_argument("--only-lamb", action="store_true", help="leave the plain version out")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cases = [case for case in CASES if not chosen.cases or case.name in chosen.cases]
    models = [name for name in MODELS if not (chosen.only_lamb and name == "plain")]

    print(
        f"{date.today()}, {processor()}, {platform.system()} {platform.machine()}, torch {torch.__version__}, one thread"
    )
    print(
        f"300/74/35 columns, dropout {DROPOUT}; unaligned = 50/500/500 steps, aligned = 60/60/60; least of several runs"
    )
    print(f"plain with LAMB's weights gives LAMB's logits: largest difference {check_same():.1e}")
    missed = False
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            print("\nno GPU here")
            continue
        print(f"\n{'one CPU thread' if device == 'cpu' else torch.cuda.get_device_name()}")
        results: dict[tuple[str, str], dict[str, Any]] = {}
        for case in cases:
            for model in models:
                # seconds a pass on the CPU: one is enough
                repeats = 1 if model == "plain" and device == "cpu" else chosen.repeats
                results[case.name, model] = in_a_process(model, case, device, repeats)
        print("\n".join(report(results, cases, models)), flush=True)
        aim = ("unaligned b32", "plain")
        if device == "cpu" and aim in results:
            ratio = results["unaligned b32", "lamb"]["both_ms"] / results[aim]["both_ms"]
            missed = ratio > AIM
            print(
                f"aim: at most {AIM:.2f} of plain's time, unaligned b32: {ratio:.2f}, {'missed' if missed else 'met'}"
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
