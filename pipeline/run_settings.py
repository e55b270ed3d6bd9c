"""Settings of a training run: one YAML file, strict keys, nearest-match errors.

In: a YAML file and ``key=value`` changes. Out: a frozen :class:`RunSettings`; its complete form is saved with the run.

    dataset: mosei                 # a folder made by `lamb dataset build`
    row: full                      # of Table 2
    model: {width: 30, dropout: 0.1}
    training: {epochs: 50, seed: 0}

    settings = read_settings(Path("run.yaml"), ["training.seed=1"])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from data.dataset import DatasetHeader
from data.errors import InputError
from lamb.derived import NO_SPREAD, widened_dims
from lamb.settings import TABLE2, ModelSettings, StrictSettings, ablation
from lamb.training import TrainSettings

MAX_YAML_BYTES = 1_000_000
Share = Annotated[float, Field(ge=0, lt=1)]
SpreadSteps = Annotated[int, Field(ge=0, le=10_000)]


class RunSettings(StrictSettings):
    """What is trained, on what, and how.

    Parameters
    ----------
    dataset : folder that ``lamb dataset build`` wrote.
    row : a row of the paper's Table 2, applied to ``model``.
    model : see :class:`lamb.settings.ModelSettings`; ``dims`` and ``n_labels`` come from the dataset.
    training : see :class:`lamb.training.TrainSettings`.
    clip_std : normalised values are clipped there, in standard deviations; null: not at all.
    start : a checkpoint whose weights training begins with, ``starter`` for the one that ships: its model settings, columns
        of spread, truncation and statistics are taken over (``pipeline/finetune.py``). Default: from scratch.
    class_weights : "balanced" multiplies the positive part of each label's loss by negatives / positives, "sqrt" by its
        square root, "none" (the paper) by nothing; probabilities are corrected for it (``pipeline/balance.py``). "auto" is
        "sqrt", but "none" in ``lamb compare``.
    column_dropout : share of the columns of text, audio, visual that are hidden in each training sample, against
        learning a small set by heart; see :func:`lamb.augmentation.drop_columns`.
    spread_steps : of text, audio, visual: with n > 0 the model also reads how much each column changes over ± n steps and
        how far it is from the clip's mean, three columns for each; see :mod:`lamb.derived`.
    licence : of the checkpoint; default: the dataset's.
    """

    dataset: Path
    start: Path | None = None
    row: str = "full"
    model: ModelSettings = Field(default_factory=ModelSettings)
    training: TrainSettings = Field(default_factory=TrainSettings)
    clip_std: float | None = Field(default=5.0, gt=0)
    class_weights: Literal["auto", "none", "sqrt", "balanced"] = "auto"
    column_dropout: tuple[Share, Share, Share] = (0.0, 0.0, 0.0)
    spread_steps: tuple[SpreadSteps, SpreadSteps, SpreadSteps] = NO_SPREAD
    licence: str | None = None

    @model_validator(mode="after")
    def _known_row(self) -> Self:
        if self.row not in TABLE2:
            raise ValueError(f"row must be one of {', '.join(TABLE2)}, but is {self.row!r}")
        return self

    def model_for(self, header: DatasetHeader) -> ModelSettings:
        """The model's settings with the dataset's columns and labels and the row's changes. Raises InputError."""
        given = self.model.model_dump(exclude_unset=True)
        known = {"dims": widened_dims(header.dims, self.spread_steps), "n_labels": len(header.label_set)}
        for key, value in known.items():
            if key in given and given[key] != value:
                raise InputError(
                    f"Expected model.{key} to be {value}, as in {header.name}, but got {given[key]}.",
                    remedy="Leave it out: it comes from the dataset.",
                    code="bad_settings",
                )
        return ablation(self.row, ModelSettings.parse({**given, **known}))

    def to_yaml(self) -> str:
        """Every setting, as :func:`read_settings` reads it."""
        record = self.model_dump(mode="json")
        for key in ("dims", "n_labels"):
            if key not in self.model.model_fields_set:
                del record["model"][key]
        return yaml.safe_dump(record, sort_keys=False, allow_unicode=True)


def read_settings(
    path: Path | None, changes: Sequence[str] = (), dataset: Path | None = None, start: Path | None = None
) -> RunSettings:
    """Settings from a YAML file (or none) with ``a.b=value`` changes (values are YAML too), a dataset and a checkpoint to
    start from put over them.

    Raises InputError: unreadable, not a mapping, an unknown key (with the nearest known one), a value out of range.
    """
    record: Any = {}
    if path is not None:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_YAML_BYTES + 1)
            if len(content) > MAX_YAML_BYTES:
                raise InputError(f"Expected settings of at most {MAX_YAML_BYTES:,} bytes in {str(path)!r}.")
            record = yaml.safe_load(content.decode("utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"Expected settings in {str(path)!r} but they cannot be read: {why}.") from error
        if not isinstance(record, dict):
            raise InputError(f"Expected keys and values in {str(path)!r} but got {type(record).__name__}.")
    for change in changes:
        _apply(record, change)
    if dataset is not None:
        record["dataset"] = str(dataset)
    if start is not None:
        record["start"] = str(start)
    if "dataset" not in record:
        raise InputError(
            "Expected a dataset but none is named.",
            remedy="Give --dataset DIR, or 'dataset:' in the settings.",
            code="bad_settings",
        )
    return RunSettings.parse(record)


def _apply(record: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise InputError(f"Expected --set key=value (such as training.seed=1) but got {change!r}.", code="bad_option")
    place = record
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise InputError(f"Expected settings inside {parent!r} but it is a value ({change!r}).", code="bad_option")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"Expected a YAML value in --set {change!r}.", code="bad_option") from error
