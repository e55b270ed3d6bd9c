"""Long files in blocks: the same numbers as in one piece, and memory that does not grow with the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from extractors.acoustic import COLUMNS, covarep_features
from extractors.acoustic.blocks import Sound, alignment, cut
from extractors.acoustic.covarep import analyse
from extractors.acoustic.phase import random_phases
from tests.acoustic_signals import RATE_HZ, voice


def speech(rate_hz: int, pause_s: float) -> np.ndarray:
    """Voices of two pitches and levels, a pause of noise, digital silence."""
    rng = np.random.default_rng(3)
    parts = [
        voice(120, 2.5, rate_hz=rate_hz),
        0.02 * rng.standard_normal(round(pause_s * rate_hz)),
        0.4 * voice(210, 2.0, rate_hz=rate_hz),
        np.zeros(rate_hz // 3),
        voice(140, 2.5, rd=1.8, rate_hz=rate_hz),
        0.01 * rng.standard_normal(rate_hz),
        voice(110, 2.5, rate_hz=rate_hz),
    ]
    whole = np.concatenate(parts)
    return whole + 1e-4 * rng.standard_normal(len(whole)) * (whole != 0)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100])
@pytest.mark.parametrize("mode", ["fixed", "compat"])
def test_blocks_give_what_the_whole_gives(mode: str, rate_hz: int) -> None:
    fixed = mode == "fixed"
    # compat filters the first cycle after a pause in a frame as long as the pause: beyond the margin that differs
    samples = speech(rate_hz, 3.0) - 0.01 if fixed else speech(rate_hz, 1.5)
    sound = Sound(samples, rate_hz, 16000 if fixed else None, centred=fixed)
    whole = analyse(sound, mode)
    blocks = cut(sound.n_samples, sound.rate_hz, block_s=3.0, whole_s=0.0)
    if (mode, rate_hz) != ("compat", 22050):  # there the frame grids meet only every eight minutes
        assert len(blocks) > 1
    parts = analyse(sound, mode, blocks=blocks)
    np.testing.assert_array_equal(parts.defined, whole.defined)
    for i, name in enumerate(COLUMNS):
        one, other = whole.values[:, i], parts.values[:, i]
        finite = np.isfinite(one)
        np.testing.assert_array_equal(finite, np.isfinite(other))
        difference = one[finite] - other[finite]
        difference = np.angle(np.exp(1j * difference)) if name.startswith("HMPDM") else difference
        tolerance = 1e-4 if fixed or name == "creak" else 1e-5  # where float32 is used
        assert np.abs(difference).max() < tolerance, name


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000])
def test_resampling_in_pieces_is_resampling_the_whole(rate_hz: int) -> None:
    from scipy.signal import resample_poly

    samples = np.random.default_rng(0).standard_normal(rate_hz // 2 + 17)
    sound = Sound(samples, rate_hz, 16000)
    common = np.gcd(16000, rate_hz)
    np.testing.assert_allclose(
        sound.read(0, sound.n_samples), resample_poly(samples, 16000 // common, rate_hz // common), atol=1e-12
    )
    whole = sound.read(0, sound.n_samples)
    for start, stop in ((0, 100), (160, 4000), (1601, 5003), (sound.n_samples - 700, sound.n_samples)):
        np.testing.assert_allclose(sound.read(start, stop), whole[start:stop], atol=1e-12)


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_silence_is_seen_across_the_ends_of_pieces(rate_hz: int) -> None:
    least, rng = rate_hz // 100, np.random.default_rng(0)
    samples = 0.2 + 0.1 * rng.standard_normal(rate_hz)
    samples[3000 : 3000 + least] = 0.7  # just long enough
    samples[5000 : 5000 + least - 1] = 0.7  # just too short
    samples[-2 * least :] = -1 / 128
    sound = Sound(samples, rate_hz, centred=True)
    whole = sound.read(0, rate_hz)
    still = np.isin(np.arange(rate_hz), [*range(3000, 3000 + least), *range(rate_hz - 2 * least, rate_hz)])
    np.testing.assert_array_equal(whole == 0.0, still)
    offset = samples[~still] - whole[~still]
    np.testing.assert_allclose(offset, samples[~still].mean(), atol=1e-12)
    for start, stop in (
        (0, 3000),
        (0, 3001),
        (3000, 3001),
        (3080, 3090),
        (2990, 5050),
        (5010, 5100),
        (rate_hz - 1, rate_hz),
    ):
        np.testing.assert_array_equal(sound.read(start, stop), whole[start:stop])
    edges_s = np.arange(101) / 100
    inside = [still[a:b].all() for a, b in itertools.pairwise(np.floor(edges_s * rate_hz + 0.5).astype(int))]
    np.testing.assert_array_equal(sound.silent(edges_s), inside)


def test_random_phases_follow_from_the_row() -> None:
    whole = np.random.default_rng(1).uniform(-np.pi, np.pi, 500)
    np.testing.assert_array_equal(random_phases(np.arange(500)), whole)
    np.testing.assert_array_equal(random_phases(np.array([317, 318, 402])), whole[[317, 318, 402]])
    assert not len(random_phases(np.zeros(0, dtype=int)))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000])
def test_cores_tile_the_file_on_the_grid(rate_hz: int) -> None:
    n_samples = 10_000 * rate_hz + 1234
    blocks = cut(n_samples, rate_hz)
    assert (blocks[0].first, blocks[0].start) == (0, 0)
    assert (blocks[-1].last, blocks[-1].stop) == (n_samples, n_samples)
    for one, after in itertools.pairwise(blocks):
        assert one.last == after.first
        assert one.stop - one.last >= 2 * rate_hz or one.stop == n_samples
        assert after.first - after.start >= 2 * rate_hz or after.start == 0
        assert after.start % alignment(rate_hz) == 0
    if rate_hz != 22050:  # its grids meet only every eight minutes
        assert max(block.stop - block.start for block in blocks) < 75 * rate_hz


def test_memory_does_not_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece that is read is longer than a block with its margins, and pieces add up to a few readings of the file."""
    read: list[int] = []
    original = Sound._raw

    def counting(self: Sound, start: int, stop: int) -> np.ndarray:
        read.append(stop - start)
        return original(self, start, stop)

    monkeypatch.setattr(Sound, "_raw", counting)
    samples = np.tile(voice(120, 1.0).astype(np.float32) * 0.5, 200)
    seen: list[float] = []
    track = covarep_features(samples, RATE_HZ, on_progress=seen.append)
    assert len(track) == 20_000
    assert max(read) <= 65 * RATE_HZ
    assert sum(read) < 6 * len(samples)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
