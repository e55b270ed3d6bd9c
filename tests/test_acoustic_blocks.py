"""Long files in blocks: the same numbers as in one piece, and memory that does not grow with the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from extractors.acoustic import COLUMNS, covarep_features
from extractors.acoustic.blocks import Sound, alignment, cut
from extractors.acoustic.covarep import analyse
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
    # compat filters the first cycle after a pause in a frame as long as the pause: beyond the margin that differs
    samples = speech(rate_hz, 3.0 if mode == "fixed" else 1.5)
    sound = Sound(samples, rate_hz, 16000 if mode == "fixed" else None)
    whole = analyse(sound, mode)
    blocks = cut(sound.n_samples, sound.rate_hz, block_s=3.0, whole_s=0.0)
    if (mode, rate_hz) != ("compat", 22050):  # there the frame grids meet only every eight minutes
        assert len(blocks) > 1
    parts = analyse(sound, mode, blocks=blocks)
    np.testing.assert_array_equal(parts.defined, whole.defined)
    random = ("HMPDM_24", "HMPDD") if mode == "compat" else ()  # the reference's random phases
    for i, name in enumerate(COLUMNS):
        if not name.startswith(random or ("none",)):
            one, other = whole.values[:, i], parts.values[:, i]
            finite = np.isfinite(one)
            np.testing.assert_array_equal(finite, np.isfinite(other))
            difference = one[finite] - other[finite]
            difference = np.angle(np.exp(1j * difference)) if name.startswith("HMPDM") else difference
            tolerance = 1e-4 if mode == "fixed" or name == "creak" else 1e-5  # where float32 is used
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
