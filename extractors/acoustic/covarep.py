"""Assembly: all 74 columns of one file, from the stages in the neighbouring files.

In: samples (N,) or (N, channels) in ±1, rate in Hz. Out: FeatureTrack at 100 Hz (or the bare matrix, with −inf).
Polarity, residual scale, F0 range, voicing threshold and median F0 are global to the file: give the whole audio of a
video and cut utterances out of the track, not out of the audio. Memory stays flat all the same: what is global is
summed up first, block by block, then the columns are measured block by block.

    track = extract(samples, 16000, "fixed")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.errors import InputError
from data.track import FeatureTrack
from extractors.acoustic import COLUMNS, RATE_HZ, acoustic_spec
from extractors.acoustic.blocks import Block, Sound, cut
from extractors.acoustic.creak import creak_features, creak_posterior
from extractors.acoustic.envelope import harmonics_and_cepstra
from extractors.acoustic.frames import HOP_S, output_instants, round_half_up, to_instants
from extractors.acoustic.gci import closures_at, mean_based_signal, relative_positions, turning_points
from extractors.acoustic.glottal import inverse_filter
from extractors.acoustic.lf_rd import estimate_rd
from extractors.acoustic.phase import phase_distortion
from extractors.acoustic.pitch import (
    Pitch,
    at_most_16k,
    decide,
    frame_starts,
    frame_times,
    narrowed,
    outside,
    pitch_residual,
    search,
)
from extractors.acoustic.polarity import polarity_from, polarity_sums
from extractors.acoustic.residual import raw_residual, residual_peak
from extractors.acoustic.sinusoids import most_harmonics, window_inside
from extractors.acoustic.voice_quality import voice_quality
from extractors.acoustic.wavelet import maxima_dispersion, peak_slope

RATE_LIMITS_HZ = (8000, 96000)
FIXED_RATE_HZ = 16000
"""`fixed` analyses every file at this rate. The cepstra span 0 Hz to half the rate, and slopes and windows follow it too, so
columns of files of different rates could not be compared, nor meet one model."""
SHORTEST_S = 0.03  # less holds no analysis frame
NEAR_S = 0.020  # `fixed`: a glottal quantity exists within this distance of a closure that shows it (a period of 50 Hz)
PAUSE_S = 0.050  # `fixed`: no cycle is longer; the first closure after a pause takes the next one's length
SLOPE_FLOOR = 1e-10  # of the loudest sample, so that silence has a slope

NO_PITCH = Pitch(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0), 0.0)
COLUMN = {name: i for i, name in enumerate(COLUMNS)}
QUALITY = slice(COLUMN["NAQ"], COLUMN["PSP"] + 1)
RD = slice(COLUMN["Rd"], COLUMN["Rd_conf"] + 1)
MCEP = slice(COLUMN["MCEP_0"], COLUMN["MCEP_0"] + 25)
HMPDM = slice(COLUMN["HMPDM_0"], COLUMN["HMPDM_0"] + 25)
HMPDD = slice(COLUMN["HMPDD_0"], COLUMN["HMPDD_0"] + 13)


@dataclass(frozen=True)
class Matrix:
    """``instants`` (T,) as 1-based samples at the rate of analysis; ``values`` (T, 74), −inf left in; ``defined`` (T, 74),
    False where a quantity does not exist."""

    instants: np.ndarray
    values: np.ndarray
    defined: np.ndarray


@dataclass
class _File:
    """A sound on its way: its blocks, what is known of the whole of it, and the pieces read last."""

    sound: Sound
    mode: str
    blocks: list[Block]
    sign: float = 1.0
    scale: float = 1.0
    loudest: float = 0.0
    pitch: Pitch = NO_PITCH
    _held: tuple[Block, dict[str, np.ndarray]] | None = None

    @property
    def compat(self) -> bool:
        return self.mode == "compat"

    @cached_property
    def inside(self) -> np.ndarray:
        """Whether the window of each pitch frame lies inside the file, (M,) bool. Of use once the pitch is known."""
        return window_inside(self.sound.n_samples, self.sound.rate_hz, self.pitch.time_s, self.pitch.f0_hz)

    @cached_property
    def most_harmonics(self) -> int:
        return most_harmonics(self.sound.n_samples, self.sound.rate_hz, self.pitch.time_s, self.pitch.f0_hz)

    def _once(self, block: Block, what: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        # pieces of the block in hand are kept: a file of one block is read and filtered once
        if self._held is None or self._held[0] != block:
            self._held = block, {}
        held = self._held[1]
        if what not in held:
            held[what] = make()
        return held[what]

    def signal(self, block: Block) -> np.ndarray:
        return self._once(block, "signal", lambda: self.sound.read(block.start, block.stop) * self.sign)

    def residual(self, block: Block) -> np.ndarray:
        """Largest magnitude in the file 1 once ``scale`` is set; NaN in digital silence in `compat`."""

        def make() -> np.ndarray:
            silent = np.nan if self.compat else 0.0
            return raw_residual(self.signal(block), self.sound.rate_hz, silent=silent) * self.scale

        return self._once(block, "residual", make)

    def pitch_residual(self, block: Block) -> np.ndarray:
        def make() -> np.ndarray:
            return pitch_residual(*at_most_16k(self.signal(block), self.sound.rate_hz), self.mode)

        return self._once(block, "pitch residual", make)

    def settle(self, sign: float, peak: float) -> None:
        """Polarity and residual peak are known: bring what is in hand to them."""
        self.sign, self.scale = sign, 1.0 / peak if peak > 0.0 else 1.0
        for what, piece in self._held[1].items() if self._held else ():
            piece *= self.sign * (self.scale if what == "residual" else 1.0)


def _frames_of(file: _File, block: Block) -> tuple[int, np.ndarray]:
    """Pitch frames that begin in the block's core: the number of the first, and their starts within the block."""
    rate_hz = min(file.sound.rate_hz, FIXED_RATE_HZ)
    starts = frame_starts(len(file.pitch_residual(block)), rate_hz)
    hop = round_half_up(HOP_S * rate_hz)
    before, core_first, core_last = (
        -(-sample * rate_hz // (file.sound.rate_hz * hop)) for sample in (block.start, block.first, block.last)
    )
    if block.last == file.sound.n_samples:
        core_last = before + len(starts)
    return core_first, starts[core_first - before : core_last - before]


def _survey(file: _File, report: Callable[[float], None]) -> None:
    """Polarity, residual peak, loudest sample and pitch of the whole file."""
    rate_hz = file.sound.rate_hz
    pitch_rate_hz = min(rate_hz, FIXED_RATE_HZ)
    sums, peak, f0, score = np.zeros((2, 4)), 0.0, [], []
    for block in file.blocks:
        signal, core = file.signal(block), block.core
        file.loudest = max(file.loudest, float(np.max(np.abs(signal[core]), initial=0.0)))
        peak = max(peak, residual_peak(file.residual(block)[core]))
        sums += polarity_sums(signal, rate_hz, core, np.nan_to_num(file.residual(block)))
        found = search(file.pitch_residual(block), _frames_of(file, block)[1], pitch_rate_hz, file.mode)
        f0.append(found[0])
        score.append(found[1])
        report(0.3 * block.last / file.sound.n_samples)
    f0, score = np.concatenate(f0), np.concatenate(score)
    range_hz = narrowed(f0, score)
    again = outside(f0, score, range_hz)
    for block in file.blocks if len(again) else ():
        number, starts = _frames_of(file, block)
        here = again[(again >= number) & (again < number + len(starts))]
        if len(here):
            found = search(file.pitch_residual(block), starts[here - number], pitch_rate_hz, file.mode, range_hz)
            f0[here], score[here] = found
    hop = round_half_up(HOP_S * pitch_rate_hz)
    file.pitch = decide(frame_times(np.arange(len(f0)) * hop, pitch_rate_hz), f0, score, file.mode)
    file.settle(polarity_from(sums), peak)
    report(0.35)


def _turns(file: _File, block: Block) -> tuple[np.ndarray, np.ndarray]:
    smooth = mean_based_signal(file.signal(block), file.sound.rate_hz, file.pitch.median_hz)
    return turning_points(smooth)


def _closure_ratio(file: _File) -> float | None:
    """Where in its cycle the file's closures lie; None without voice."""
    if file.pitch.median_hz <= 0.0:
        return None
    positions = [relative_positions(file.residual(b), *_turns(file, b), core=b.core) for b in file.blocks]
    together = np.concatenate(positions)
    return float(np.median(together)) if len(together) else None


def _rows(instants: np.ndarray, block: Block, n_samples: int) -> slice:
    """Output rows whose instants (1-based) lie in the block's core."""
    last = np.inf if block.last == n_samples else block.last
    return slice(*np.searchsorted(instants, [block.first, last], side="right"))


def _inside(positions: np.ndarray, instants: np.ndarray) -> np.ndarray:
    if not len(positions):
        return np.zeros(len(instants), dtype=bool)
    return (instants >= positions[0]) & (instants <= positions[-1])


@dataclass
class _Cycles:
    """What was measured at the closures of one block: 1-based positions (G,) and NAQ, QOQ, H1H2, PSP, MDQ (G, 5)."""

    positions: np.ndarray
    values: np.ndarray


def _cycles(file: _File, block: Block, ratio: float) -> _Cycles:
    rate_hz, signal, residual = file.sound.rate_hz, file.signal(block), file.residual(block)
    longest = None if file.compat else round_half_up(PAUSE_S * rate_hz)
    closures = closures_at(residual, *_turns(file, block), ratio, away=file.compat)
    voicing = to_instants(file.pitch.time_s * rate_hz, file.pitch.voiced, closures + float(block.start))
    closures = closures[voicing >= 0.5 - 1e-9]
    if len(closures) < 2:
        return _Cycles(np.zeros(0), np.zeros((0, 5)))
    # the reference filters around the sample before the closure
    flow, derivative = inverse_filter(signal, closures - 1 if file.compat else closures, rate_hz, longest)
    quality = voice_quality(flow, derivative, closures, rate_hz, 1 if file.compat else 0, longest)
    dispersion = maxima_dispersion(np.nan_to_num(residual), closures, longest)
    core = block.core
    mine = (closures >= core.start) & (closures < core.stop)
    return _Cycles(closures[mine] + block.start + 1.0, np.concatenate([quality[mine], dispersion[mine, None]], axis=1))


def _place_cycles(cycles: list[_Cycles], rate_hz: int, compat: bool, out: Matrix) -> None:
    """Columns NAQ … MDQ from the values at all closures of the file."""
    positions = np.concatenate([c.positions for c in cycles])
    values = np.concatenate([c.values for c in cycles])
    if compat:
        out.values[:, QUALITY] = to_instants(positions, values[:, :4], out.instants)
        out.values[:, COLUMN["MDQ"]] = to_instants(positions - 1.0, values[:, 4], out.instants)
        return
    for i, column in enumerate((*range(QUALITY.start, QUALITY.stop), COLUMN["MDQ"])):
        shown = values[:, i] != 0.0  # 0: this cycle does not show it (no plausible period, too few harmonics)
        where = positions[shown]
        if len(where):
            out.values[:, column] = np.interp(out.instants, where, values[shown, i])
            right = np.clip(np.searchsorted(where, out.instants), 0, len(where) - 1)
            left = np.maximum(right - 1, 0)
            distance = np.minimum(np.abs(where[right] - out.instants), np.abs(where[left] - out.instants))
            out.defined[:, column] &= distance <= NEAR_S * rate_hz
        else:
            out.defined[:, column] = False


def _place_frames(file: _File, block: Block, rows: slice, out: Matrix) -> None:
    """Rd, MCEP, HMPDM and HMPDD of the block's rows, from the harmonics of its pitch frames."""
    rate_hz, signal, pitch = file.sound.rate_hz, file.signal(block), file.pitch
    first, last = np.searchsorted(pitch.time_s, [block.start / rate_hz, block.stop / rate_hz])
    time_s, f0_hz = pitch.time_s[first:last] - block.start / rate_hz, pitch.f0_hz[first:last]
    harmonics, cepstra = harmonics_and_cepstra(signal, rate_hz, time_s, f0_hz, file.mode)
    at = harmonics.time_s * rate_hz + block.start
    instants, values, defined = out.instants[rows], out.values[rows], out.defined[rows]
    inside = _inside(at, instants)
    defined[:, MCEP.start : HMPDD.stop] &= inside[:, None]
    if not len(at):
        defined[:, RD] = False
        return
    rd = np.stack(estimate_rd(harmonics, rate_hz, file.mode), axis=1)
    if file.compat:
        values[:, RD] = to_instants(at, rd, instants)
    else:
        voiced = pitch.voiced[first:last][harmonics.frame]
        values[:, RD] = _voiced_mean(at, rd, voiced, instants)
        defined[:, RD] &= inside[:, None]
    if file.compat:  # the reference forgets the frames' times and stretches them over the file
        number = file.inside.cumsum()[first + harmonics.frame] - 1
        stretched = np.floor(np.linspace(1, file.sound.n_samples, file.inside.sum()) + 0.5)[number]
        values[:, MCEP] = to_instants(stretched, cepstra, instants)
        mean, deviation = phase_distortion(harmonics, rate_hz, "compat", number, file.most_harmonics)
        # the reference unwraps along time, and counts these frames' samples from 1
        turned = to_instants(at + 1, np.unwrap(mean, axis=0), instants)
        values[:, HMPDM] = turned - 2 * np.pi * np.floor(turned / (2 * np.pi) + 0.5)
    else:
        values[:, MCEP] = to_instants(at, cepstra, instants)
        mean, deviation = phase_distortion(harmonics, rate_hz)
        around = to_instants(at, np.concatenate([np.cos(mean), np.sin(mean)], axis=1), instants)
        values[:, HMPDM] = np.arctan2(around[:, 25:], around[:, :25])
    values[:, HMPDD] = to_instants(at, deviation, instants)


def _creak(file: _File, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and creak features of the block's core."""
    rate_hz, pitch = file.sound.rate_hz, file.pitch
    start_s = block.start / rate_hz
    near = slice(*np.searchsorted(pitch.time_s, [start_s, block.stop / rate_hz]))
    local = Pitch(
        pitch.time_s[near] - start_s, pitch.f0_hz[near], pitch.voiced[near], pitch.score[near], pitch.median_hz
    )
    time_s, features = creak_features(file.signal(block), rate_hz, local, file.mode)
    time_s = time_s + start_s
    last = np.inf if block.last == file.sound.n_samples else block.last
    mine = (time_s * rate_hz > block.first + 0.5) & (time_s * rate_hz <= last + 0.5)
    return time_s[mine], features[mine]


def _voiced_mean(positions: np.ndarray, values: np.ndarray, voiced: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Linear interpolation of frames' (M, d) values, unvoiced neighbours left out: a guess in noise is no pitch. (T, d)."""
    weight = to_instants(positions, voiced.astype(float), instants)[:, None]
    total = to_instants(positions, np.where(voiced[:, None], values, 0.0), instants)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0.0)


def _measure(file: _File, out: Matrix, report: Callable[[float], None]) -> None:
    rate_hz, n_samples, compat, pitch = file.sound.rate_hz, file.sound.n_samples, file.compat, file.pitch
    voicing = to_instants(pitch.time_s * rate_hz, pitch.voiced, out.instants) >= 0.5 - 1e-9
    out.values[:, COLUMN["VUV"]] = voicing
    at = pitch.time_s * rate_hz
    if compat:
        out.values[:, COLUMN["F0"]] = to_instants(at, pitch.f0_hz, out.instants)
    else:
        out.values[:, COLUMN["F0"]] = _voiced_mean(at, pitch.f0_hz[:, None], pitch.voiced, out.instants)[:, 0]
        for column in (COLUMN["F0"], *range(QUALITY.start, QUALITY.stop), COLUMN["MDQ"], RD.start, RD.start + 1):
            out.defined[:, column] = voicing
        out.defined[:, COLUMN["VUV"]] = _inside(at, out.instants)
    ratio = _closure_ratio(file)
    cycles, creak = [], []
    for block in file.blocks:
        rows, signal = _rows(out.instants, block, n_samples), file.signal(block)
        if ratio is not None:
            cycles.append(_cycles(file, block, ratio))
        slope_s, slope = peak_slope(signal, rate_hz, None if compat else SLOPE_FLOOR, file.loudest)
        slope_at = slope_s * rate_hz + block.start
        out.values[rows, COLUMN["peakSlope"]] = to_instants(slope_at, slope, out.instants[rows])
        out.defined[rows, COLUMN["peakSlope"]] &= _inside(slope_at, out.instants[rows])
        _place_frames(file, block, rows, out)
        creak.append(_creak(file, block))
        report(0.35 + 0.6 * block.last / n_samples)
    if cycles:
        _place_cycles(cycles, rate_hz, compat, out)
    elif not compat:
        out.defined[:, QUALITY] = False
        out.defined[:, COLUMN["MDQ"]] = False
    creak_s, features = (np.concatenate(parts) for parts in zip(*creak, strict=True))
    # half a hop from a sum of floats misses the instants by 1e-10 samples, enough to let a missing neighbour in
    at = np.round((creak_s - HOP_S / 2) * rate_hz, 6)
    posterior = creak_posterior(features, n_samples / rate_hz, file.mode)
    out.values[:, COLUMN["creak"]] = to_instants(at, posterior, out.instants)
    out.defined[:, COLUMN["creak"]] &= _inside(at, out.instants)
    report(1.0)


def analyse(
    sound: Sound,
    mode: str = "fixed",
    dtype: type[np.floating] = np.float64,
    on_progress: Callable[[float], None] | None = None,
    blocks: list[Block] | None = None,
) -> Matrix:
    """All columns of a sound. ``blocks`` defaults to :func:`extractors.acoustic.blocks.cut`."""
    rate_hz, n_samples = sound.rate_hz, sound.n_samples
    instants = output_instants(n_samples, rate_hz, mode)
    out = Matrix(instants, np.zeros((len(instants), len(COLUMNS)), dtype), np.ones((len(instants), len(COLUMNS)), bool))
    if n_samples < SHORTEST_S * rate_hz or not len(instants):
        out.defined[:] = False
        return out
    file = _File(sound, mode, cut(n_samples, rate_hz) if blocks is None else blocks)
    report = on_progress or (lambda fraction: None)
    _survey(file, report)
    _measure(file, out, report)
    if mode == "fixed":
        out.values[~out.defined] = 0.0
    else:  # the reference fills every cell with something
        out.defined[:] = True
    return out


def matrix(signal: np.ndarray, rate_hz: int, mode: str = "fixed") -> tuple[np.ndarray, np.ndarray]:
    """All columns of a mono signal (N,) at its own rate: instants (T,) as 1-based samples, values (T, 74) float64, −inf
    left in."""
    found = analyse(Sound(signal, rate_hz, centred=mode == "fixed"), mode)
    return found.instants, found.values


def _checked_rate(rate_hz: int) -> int:
    """The rate as an integer. Raises InputError (bad_audio) for what is no whole number within the limits."""
    given = np.asarray(rate_hz)
    number = given.ndim == 0 and given.dtype.kind in "iuf"
    if not number or not RATE_LIMITS_HZ[0] <= rate_hz <= RATE_LIMITS_HZ[1] or rate_hz != int(rate_hz):
        raise InputError(
            f"Expected a sampling rate of {RATE_LIMITS_HZ[0]}..{RATE_LIMITS_HZ[1]} whole Hz but got {rate_hz!r}.",
            code="bad_audio",
            remedy="Resample the audio to 16000 Hz first." if number else "Give the rate as an integer.",
        )
    return int(rate_hz)


def extract(
    samples: np.ndarray, rate_hz: int, mode: str = "fixed", on_progress: Callable[[float], None] | None = None
) -> FeatureTrack:
    """The 74 columns of a whole file's audio.

    Parameters
    ----------
    samples : float [shape=(N,) or (N, channels)], ±1; the first channel is used; a memory map will do.
    rate_hz : 8000..96000, whole.
    mode : "fixed" mends the reference's quirks; "compat" reproduces them (rows then follow its own sample grid).
    on_progress : called with the share of the work that is done, 0..1.

    Returns a FeatureTrack whose rows cover the file. Rows of digital silence are not valid; in `compat` they are, with what
    the reference says of them, unless there is nothing else. In `fixed`, ``defined`` tells where a column exists: pitch and
    glottal columns only in voiced speech, and nothing within half a window of the file's ends. A file without a row (empty,
    or in `compat` shorter than 5 ms) gives an empty track with reason ``no_audio``; a wholly silent one has reason
    ``silence``. In `fixed` samples that do not change for 10 ms are silence, whatever their value, and the offset of all
    others is taken off them: that of a recorder is no sound.

    Raises
    ------
    InputError : samples are not float (N,) or (N, channels), or the rate is no whole number within the limits.
    ValueError : unknown mode.
    """
    spec = acoustic_spec(mode)
    fixed = mode == "fixed"
    sound = Sound(samples, _checked_rate(rate_hz), FIXED_RATE_HZ if fixed else None, centred=fixed)
    found = analyse(sound, mode, np.float32, on_progress)
    if not len(found.instants):
        return FeatureTrack.empty(spec, "no_audio")
    row_s = 1 / RATE_HZ if fixed else round_half_up(HOP_S * sound.rate_hz) / sound.rate_hz
    edges_s = np.arange(len(found.instants) + 1) * row_s
    silent = sound.silent(edges_s)
    valid = ~silent if fixed or silent.all() else np.ones(len(silent), dtype=bool)
    found.values[~np.isfinite(found.values)] = 0.0  # −inf of peakSlope at the edges of digital silence
    reason = None if valid.any() else "silence"
    return FeatureTrack(found.values, edges_s[:-1], edges_s[1:], valid, spec, reason, found.defined if fixed else None)
