"""Columns of spread: every value against plain loops, in checkpoints, explanations and training as in predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data import Clip, FeatureTrack
from data.batches import Sample, collate
from data.spec import MODALITIES, Modality
from lamb.checkpoint import Checkpoint
from lamb.derived import to_source, widened_dims, with_spread
from lamb.explain import attribute
from lamb.normalization import Normalization
from tests.test_checkpoint import CLIPS, DIMS, make_checkpoint, make_clip

torch.set_num_threads(1)

SPREAD = (0, 2, 1)
WIDE = (6, 15, 12)


def plain_spread(values: np.ndarray, known: np.ndarray, valid: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The two kinds of columns one value at a time, from their definition."""
    length, width = values.shape
    wide, defined = np.zeros((length, 3 * width)), np.zeros((length, 3 * width), bool)
    for k in range(width):
        seen = [float(values[t, k]) for t in range(length) if known[t, k]]
        for t in range(length):
            if known[t, k]:
                wide[t, k], wide[t, 2 * width + k] = values[t, k], abs(values[t, k] - sum(seen) / len(seen))
                defined[t, k] = defined[t, 2 * width + k] = True
            if valid[t] and t - n >= 0 and t + n < length and known[t - n, k] and known[t + n, k]:
                wide[t, width + k], defined[t, width + k] = abs(values[t + n, k] - values[t - n, k]), True
    return wide, defined


def clip_with_gaps(seed: int) -> Clip:
    """A clip whose voice has columns undefined at some steps."""
    clip = make_clip(seed)
    audio = clip.tracks["audio"]
    defined = np.random.default_rng(seed).random(audio.values.shape) < 0.8
    track = FeatureTrack(audio.values, audio.start_s, audio.end_s, audio.valid, audio.spec, None, defined)
    return Clip(clip.id, clip.source, clip.start_s, clip.end_s, {**clip.tracks, "audio": track})


GAPPED = [clip_with_gaps(i) for i in range(6)]


@pytest.mark.parametrize("clip", [*GAPPED, *CLIPS], ids=lambda clip: clip.id)
def test_columns_are_what_they_say(clip: Clip) -> None:
    sample = Sample.from_clip(clip)
    wide = with_spread(sample, SPREAD)
    assert wide.values["text"] is sample.values["text"]
    for name, n in (("audio", 2), ("visual", 1)):
        known = sample.defined.get(name, np.ones(sample.values[name].shape, bool)) & sample.valid[name][:, None]
        expected, defined = plain_spread(sample.values[name], known, sample.valid[name], n)
        np.testing.assert_array_equal(wide.defined[name], defined)
        np.testing.assert_allclose(wide.values[name], expected, atol=1e-5)
        assert wide.values[name].dtype == np.float32


def test_offsets_of_a_recording_do_not_count() -> None:
    clip = GAPPED[0]
    sample = Sample.from_clip(clip)
    moved = {**sample.values, "audio": sample.values["audio"] + np.arange(5, dtype=np.float32)}
    wide = with_spread(Sample(moved, sample.valid, defined=sample.defined), SPREAD).values["audio"][:, 5:]
    np.testing.assert_allclose(wide, with_spread(sample, SPREAD).values["audio"][:, 5:], atol=1e-4)


def test_too_short_and_absent_tracks() -> None:
    clip = make_clip(0)
    track = clip.tracks["audio"]
    short = FeatureTrack(track.values[:4], track.start_s[:4], track.end_s[:4], np.ones(4, bool), track.spec)
    wide = with_spread(Sample.from_clip(Clip("", "", 0, 2, {**clip.tracks, "audio": short})), SPREAD)
    assert not wide.defined["audio"][:, 5:10].any()  # 2 steps to either side need five
    assert with_spread(Sample.from_clip(make_clip(3, ("audio",))), SPREAD).values["audio"].shape == (0, 15)
    sample = Sample.from_clip(clip)
    assert with_spread(sample, (0, 0, 0)) is sample


def test_dims_and_sources() -> None:
    assert widened_dims((50, 74, 35), (0, 3, 0)) == (50, 222, 35)
    amounts = np.random.default_rng(0).normal(size=(2, 3, 12))
    folded = to_source(amounts, 4)
    for k in range(4):
        np.testing.assert_allclose(folded[..., k], amounts[..., k] + amounts[..., 4 + k] + amounts[..., 8 + k])
    assert to_source(amounts, 12) is amounts
    with pytest.raises(ValueError, match="Expected 5 or 15 columns but got 12"):
        to_source(amounts, 5)


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def spread_checkpoint(**changes: object) -> Checkpoint:
    wide = [with_spread(Sample.from_clip(clip), SPREAD) for clip in (*GAPPED, *CLIPS)]
    return make_checkpoint(
        model={"dims": WIDE}, normalization=Normalization.measure(wide), **{"spread_steps": SPREAD, **changes}
    )


def test_predictions_step_by_step() -> None:
    checkpoint = spread_checkpoint()
    result = checkpoint.predict(GAPPED, batch_size=4)
    for clip, row in zip(GAPPED, result, strict=True):
        raw = Sample.from_clip(clip)
        values: dict[Modality, np.ndarray] = {}
        for name, n in zip(MODALITIES, SPREAD, strict=True):
            known = raw.defined.get(name, np.ones(raw.values[name].shape, bool)) & raw.valid[name][:, None]
            x = raw.values[name]
            if n:
                x, known = plain_spread(x, known, raw.valid[name], n)
            mean, std = checkpoint.normalization.mean[name], checkpoint.normalization.std[name]
            values[name] = (np.clip((x - mean) / std, -5, 5) * known).astype(np.float32)
        with torch.no_grad():
            logits = checkpoint.model(collate([Sample(values, raw.valid)], WIDE, (8, 10, 12)))[0].numpy()
        np.testing.assert_allclose(row, 1 / (1 + np.exp(-logits / 1.7)), atol=1e-4)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint = spread_checkpoint()
    loaded = Checkpoint.load(checkpoint.save(tmp_path / "m"))
    assert loaded.spread_steps == SPREAD
    assert loaded.fingerprint() == checkpoint.fingerprint()
    assert np.array_equal(loaded.predict(GAPPED), checkpoint.predict(GAPPED))
    assert spread_checkpoint(spread_steps=(0, 2, 2)).fingerprint() != checkpoint.fingerprint()


def test_without_columns_of_spread_nothing_is_recorded(tmp_path: Path) -> None:
    """Checkpoints made before there were any keep their fingerprint."""
    assert "spread_steps" not in make_checkpoint().save(tmp_path / "m").read_text(encoding="utf-8")


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="the spec gives 5"):
        spread_checkpoint(spread_steps=(0, 0, 1))
    with pytest.raises(ValueError, match="at least 0"):
        spread_checkpoint(spread_steps=(0, -1, 0))


def test_what_a_derived_column_gives_is_its_sources() -> None:
    checkpoint = spread_checkpoint()
    found = attribute(checkpoint, GAPPED[1], ["fear"])
    for name, dim in zip(MODALITIES, DIMS, strict=True):
        assert found.values[name].shape[2] == dim
    assert found.relative_gaps.max() < 0.02


def test_a_voice_heard_only_through_one_columns_change() -> None:
    checkpoint = spread_checkpoint()
    std = checkpoint.normalization.std
    heard = np.full(15, 1e9, np.float32)
    heard[5 + 2] = std["audio"][5 + 2]
    checkpoint.normalization = Normalization(checkpoint.normalization.mean, {**std, "audio": heard})
    found = attribute(checkpoint, GAPPED[2], ["joy"])
    given = np.abs(found.per_column("audio")[0])
    assert given[2] > 1e-3
    assert np.delete(given, 2).max() < 1e-5
