"""Attention of many short heads on the CPU, sample by sample over packed rows, compiled.

In: queries (Rq, d), keys and values (Rk, d), float32, the rows of all samples one after another; which rows belong to which
sample as offsets (N + 1,), int64. Out: attended values (Rq, d), exactly 0 for a sample without keys.

    attended = packed_attention(q, k, v, Rows.from_counts(mask_q.sum(1)), Rows.from_counts(mask_k.sum(1)), heads=5)

Why not torch's: at the paper's head width of 6 its fused kernel is a third as fast, without a fused path at all where
weights are dropped out, and cannot leave out padding. Here a query's scores stay in the cache: they are computed,
used and forgotten, and computed again on the way back. Exponents are powers of two (a polynomial of degree 6,
relative error under 3e-7). Dropout is a hash of seed, sample, head, query and key, so it needs no memory either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

F, U = np.float32, np.uint32
LOG2E = 1 / math.log(2)
C1, C2, C3, C4, C5, C6 = (F(math.log(2) ** k / math.factorial(k)) for k in range(1, 7))  # 2^f = Σ (f ln 2)^k / k!
ONE, HALF, LOWEST = F(1.0), F(0.5), F(-125.0)
BLOCK = 4096  # values that share a starting hash
WEYL, MIX1, MIX2, S15, S16 = U(0x9E3779B9), U(0x21F0AAAD), U(0x735A2D97), U(15), U(16)  # Wellons' lowbias32


@dataclass(frozen=True, eq=False)
class Rows:
    """Which packed rows belong to which sample.

    ``ends`` int64 (N + 1,): sample n has places ends[n] … ends[n + 1] − 1. ``index`` int64 (R,) or None: the row at each
    place, where rows lie in another order than the samples; no row twice.
    """

    ends: np.ndarray
    index: np.ndarray | None = None

    @classmethod
    def from_counts(cls, counts: Tensor, index: np.ndarray | None = None) -> Rows:
        """``counts`` (N,): places of each sample."""
        return cls(np.concatenate([np.zeros(1, np.int64), counts.cumsum(0).numpy()]), index)

    @property
    def counts(self) -> np.ndarray:
        """Places of each sample, int64 (N,)."""
        return np.diff(self.ends)

    @property
    def places(self) -> np.ndarray:
        """The row at each place, int64 (R,)."""
        return np.arange(self.ends[-1]) if self.index is None else self.index


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, queries: Rows, keys: Rows, heads: int, dropout: float = 0.0
) -> Tensor:
    """Scaled dot product attention of ``heads`` heads, each sample's queries to its keys; (Rq, d) as ``q``'s type.

    ``dropout`` acts on the weights; it draws one number from torch's generator, so that a seed repeats it.
    """
    seed = int(torch.randint(2**63 - 1, ())) if dropout else 0
    return _PackedAttention.apply(q.float(), k.float(), v.float(), queries, keys, heads, dropout, seed).to(q.dtype)  # type: ignore[no-any-return]


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: Rows, keys: Rows, heads: int, dropout: float, seed: int
    ) -> Tensor:
        out, total = torch.zeros(q.shape), torch.empty(heads, len(q))
        fixed = (queries.places, queries.ends, keys.places, keys.ends, *_constants(q, heads, dropout, seed))
        _over_samples(_attend, q.numpy(), k.numpy(), v.numpy(), out.numpy(), total.numpy(), *fixed)
        ctx.save_for_backward(q, k, v, out, total)
        ctx.fixed = fixed
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, total = (x.numpy() for x in ctx.saved_tensors)
        grads = [torch.zeros(x.shape) for x in ctx.saved_tensors[:3]]
        arrays = (q, k, v, out, total, grad.contiguous().numpy(), *(x.numpy() for x in grads))
        _over_samples(_attend_back, *arrays, *ctx.fixed)
        return (*grads, None, None, None, None, None)


class Dropout(torch.nn.Dropout):
    """torch's dropout; on the CPU, in training, from hashes: a sixth of the time, and no mask is kept."""

    def forward(self, input: Tensor) -> Tensor:
        hashed = self.training and 0 < self.p < 1 and input.device.type == "cpu" and input.dtype == torch.float32
        if not hashed or not len(input):
            return super().forward(input)
        return _HashedDropout.apply(input, self.p, int(torch.randint(2**63 - 1, ())))  # type: ignore[no-any-return]


class _HashedDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:  # type: ignore[override]
        ctx.fixed = p, seed
        return _dropped(x, p, seed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _dropped(grad, *ctx.fixed), None, None


def _dropped(x: Tensor, p: float, seed: int) -> Tensor:
    result = torch.empty(x.shape)
    _drop_all(x.contiguous().view(-1).numpy(), _threshold(p), F(1 / (1 - p)), np.uint64(seed), result.view(-1).numpy())
    return result


def _threshold(p: float) -> Any:
    """Hashes under it are kept."""
    return U(min(2**32 - 1, round((1 - p) * 2**32)))


def _constants(q: Tensor, heads: int, dropout: float, seed: int) -> tuple[Any, ...]:
    """Scale of a score in powers of two, dropout's threshold and factor, seed; in the kernels' types."""
    scale = LOG2E / math.sqrt(q.shape[1] / heads)
    return F(scale), _threshold(dropout), F(1 / (1 - dropout)), np.uint64(seed), dropout > 0


def _over_samples(function: Callable[..., None], *arguments: Any) -> None:
    """Samples in as many parts as torch may use threads; the kernels hold no lock, and write to rows of their own."""
    ends = arguments[-8]
    n = len(ends) - 1
    parts = min(torch.get_num_threads(), n)
    if parts < 2:
        function(*arguments, 0, n)
        return
    cuts = np.searchsorted(ends, np.linspace(0, ends[-1], parts + 1)[1:-1]).tolist()  # parts of like many queries
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(lambda first, last: function(*arguments, first, last), [0, *cuts], [*cuts, n]))


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled without Python; kept on disk where numba finds a folder for it."""
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(**options)(function)


@compiled
def _mix(x):
    """32 random-looking bits of a 32-bit number."""
    x = U(U(x ^ U(x >> S16)) * MIX1)
    x = U(U(x ^ U(x >> S15)) * MIX2)
    return U(x ^ U(x >> S15))


@compiled
def _dot(weights, columns, result):
    """result[j] = Σ_c weights[c] columns[c, j]; an even number of columns."""
    for c in range(0, columns.shape[0], 2):
        a, b, x, y = weights[c], weights[c + 1], columns[c], columns[c + 1]
        if c == 0:
            for j in range(result.shape[0]):
                result[j] = a * x[j] + b * y[j]
        else:
            for j in range(result.shape[0]):
                result[j] += a * x[j] + b * y[j]


@compiled
def _sums(row, columns, result):
    """result[c] = Σ_j row[j] columns[c, j]; an even number of columns."""
    for c in range(0, columns.shape[0], 2):
        a, b, x, y = F(0), F(0), columns[c], columns[c + 1]
        for j in range(row.shape[0]):
            a += row[j] * x[j]
            b += row[j] * y[j]
        result[c], result[c + 1] = a, b


@compiled
def _add_outer(weights, row, columns):
    """columns[c, j] += weights[c] row[j]."""
    for c in range(columns.shape[0]):
        a, x = weights[c], columns[c]
        for j in range(row.shape[0]):
            x[j] += a * row[j]


@compiled
def _largest(row):
    top = row[0]
    for j in range(row.shape[0]):
        top = max(top, row[j])
    return top


@compiled
def _powers(row, top, exponents, scales):
    """row[j] = 2^(row[j] − top) and their sum; ``scales`` are the bits of ``exponents`` read as float32."""
    for j in range(row.shape[0]):
        y = row[j] - top
        y = y if y > LOWEST else LOWEST
        whole = np.floor(y + HALF)
        f = y - whole
        row[j] = (((((C6 * f + C5) * f + C4) * f + C3) * f + C2) * f + C1) * f + ONE
        exponents[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    total = F(0)
    for j in range(row.shape[0]):
        row[j] *= scales[j]
        total += row[j]
    return total


@compiled
def _drop(row, start, threshold, factor):
    """row[j] times ``factor`` where the hash of start and j is under the threshold, else 0."""
    for j in range(row.shape[0]):
        row[j] = row[j] * factor if _mix(U(start + U(U(j) * WEYL))) < threshold else F(0)


@compiled
def _start(seed, n, head, i):
    """Where the hashes of one query's row begin."""
    low, high = U(seed & np.uint64(0xFFFFFFFF)), U(seed >> np.uint64(32))
    return _mix(U(_mix(U(_mix(U(low ^ U(n))) ^ U(head))) ^ U(high + U(i))))


@compiled
def _drop_all(x, threshold, factor, seed, result):
    for block in range((len(x) + BLOCK - 1) // BLOCK):
        source, target = x[block * BLOCK : (block + 1) * BLOCK], result[block * BLOCK : (block + 1) * BLOCK]
        start = _start(seed, block, 0, 0)
        for j in range(len(source)):
            target[j] = source[j] * factor if _mix(U(start + U(U(j) * WEYL))) < threshold else F(0)


@compiled
def _gather(x, places, first, last, head, width, columns):
    """columns[c, j] = x[row of place first + j, c-th channel of the head]."""
    for j in range(last - first):
        row = places[first + j]
        for c in range(width):
            columns[c, j] = x[row, head * width + c]


@compiled
def _attend(
    q, k, v, out, totals, q_places, q_ends, k_places, k_ends, scale, threshold, factor, seed, dropping, begin, end
):
    """Fills ``out`` (Rq, d), and ``totals`` (h, Rq): log2 of each query's sum of powers."""
    heads = totals.shape[0]
    width = q.shape[1] // heads
    even = width + width % 2
    query, result = np.zeros(even, F), np.zeros(even, F)
    for n in range(begin, end):
        n_keys = k_ends[n + 1] - k_ends[n]
        if n_keys == 0:
            continue
        keys, values = np.zeros((even, n_keys), F), np.zeros((even, n_keys), F)
        row, exponents = np.empty(n_keys, F), np.empty(n_keys, np.int32)
        scales = exponents.view(F)
        for head in range(heads):
            _gather(k, k_places, k_ends[n], k_ends[n + 1], head, width, keys)
            _gather(v, k_places, k_ends[n], k_ends[n + 1], head, width, values)
            for place in range(q_ends[n], q_ends[n + 1]):
                i = q_places[place]
                for c in range(width):
                    query[c] = q[i, head * width + c] * scale
                _dot(query, keys, row)
                top = _largest(row)
                total = _powers(row, top, exponents, scales)
                totals[head, i] = top + np.log2(total)
                if dropping:
                    _drop(row, _start(seed, n, head, place - q_ends[n]), threshold, factor)
                _sums(row, values, result)
                for c in range(width):
                    out[i, head * width + c] = result[c] / total


@compiled
def _attend_back(
    q, k, v, out, totals, grad, dq, dk, dv,
    q_places, q_ends, k_places, k_ends, scale, threshold, factor, seed, dropping, begin, end,
):  # fmt: skip
    """Fills ``dq``, ``dk``, ``dv``: with P the weights, dS = P (dP − Σ P dP), and Σ P dP = grad · out."""
    heads = totals.shape[0]
    width = q.shape[1] // heads
    even = width + width % 2
    natural = scale / F(LOG2E)
    query, upstream, result = np.zeros(even, F), np.zeros(even, F), np.zeros(even, F)
    for n in range(begin, end):
        n_keys = k_ends[n + 1] - k_ends[n]
        if n_keys == 0:
            continue
        keys, values = np.zeros((even, n_keys), F), np.zeros((even, n_keys), F)
        row, slope, exponents = np.empty(n_keys, F), np.empty(n_keys, F), np.empty(n_keys, np.int32)
        scales = exponents.view(F)
        for head in range(heads):
            _gather(k, k_places, k_ends[n], k_ends[n + 1], head, width, keys)
            _gather(v, k_places, k_ends[n], k_ends[n + 1], head, width, values)
            d_keys, d_values = np.zeros((even, n_keys), F), np.zeros((even, n_keys), F)
            for place in range(q_ends[n], q_ends[n + 1]):
                i = q_places[place]
                shared = F(0)
                for c in range(width):
                    query[c] = q[i, head * width + c] * scale
                    upstream[c] = grad[i, head * width + c]
                    shared += upstream[c] * out[i, head * width + c]
                _dot(query, keys, row)
                _powers(row, totals[head, i], exponents, scales)  # the weights
                _dot(upstream, values, slope)
                if dropping:
                    start = _start(seed, n, head, place - q_ends[n])
                    _drop(slope, start, threshold, factor)
                for j in range(n_keys):
                    slope[j] = row[j] * (slope[j] - shared)
                if dropping:
                    _drop(row, start, threshold, factor)
                _add_outer(upstream, row, d_values)
                _sums(slope, keys, result)
                for c in range(width):
                    dq[i, head * width + c] = result[c] * natural
                    query[c] = q[i, head * width + c] * natural
                _add_outer(query, slope, d_keys)
            for j in range(n_keys):
                row_j = k_places[k_ends[n] + j]
                for c in range(width):
                    dk[row_j, head * width + c] = d_keys[c, j]
                    dv[row_j, head * width + c] = d_values[c, j]
