"""The acoustic picture where there is little to draw: silence, a few milliseconds, no voice."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from extractors.acoustic import covarep_features
from pipeline.plot import RANGE_DB, ROWS, _figure
from tests.acoustic_signals import RATE_HZ, voice


def drawn(samples: np.ndarray) -> Any:
    length_s = len(samples) / RATE_HZ
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _figure(samples, RATE_HZ, covarep_features(samples, RATE_HZ), "a.wav", 0.0, length_s)


def words(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


def levels_db(figure: Any) -> np.ndarray:
    """The spectrogram (bins, steps)."""
    return np.asarray(figure.axes[0].images[0].get_array())


def test_silence_is_dark_and_says_what_is_missing() -> None:
    figure = drawn(np.zeros(RATE_HZ))
    assert levels_db(figure).max() == pytest.approx(-RANGE_DB)
    for axis, (_, _, _, limits, missing) in zip(figure.axes[1:], ROWS, strict=True):
        assert words(axis) == [missing]
        assert axis.get_ylim() == limits


def test_noise_at_the_last_bit_is_not_as_bright_as_a_voice() -> None:
    faint = np.random.default_rng(0).integers(-1, 2, RATE_HZ) / 32768
    assert levels_db(drawn(faint)).max() < -10
    assert levels_db(drawn(voice(120.0))).max() == pytest.approx(0.0, abs=1e-6)


def test_fifty_milliseconds_are_drawn_without_a_warning() -> None:
    figure = drawn(voice(120.0, 0.05))
    assert levels_db(figure).max() == pytest.approx(0.0, abs=1e-6)
    left, right, *_ = figure.axes[0].images[0].get_extent()
    assert (left, right) == pytest.approx((-0.005, 0.055))
    assert figure.axes[0].get_xlim() == (0.0, 0.05)


def test_a_voice_is_drawn_where_it_is_and_gets_no_word() -> None:
    figure = drawn(np.concatenate([voice(120.0), np.zeros(RATE_HZ)]))
    assert not any(words(axis) for axis in figure.axes[1:])
    level = levels_db(figure)
    assert level[:, 10:90].max(axis=0).min() > -10
    assert level[:, 110:].max() == pytest.approx(-RANGE_DB)
    for axis in figure.axes[1:]:
        time_s, curve = (np.asarray(values) for values in axis.lines[0].get_data())
        assert np.isfinite(curve[(time_s > 0.1) & (time_s < 0.9)]).all()
        assert np.isnan(curve[time_s > 1.1]).all()
