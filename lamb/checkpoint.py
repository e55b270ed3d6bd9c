"""A trained model as two files, and predictions from it.

``<name>.safetensors`` holds the weights (``model.*``) and normalisation statistics; ``<name>.json`` holds everything
else: settings, labels, the three feature specs, thresholds, metrics, provenance, licence, and the sha256 of the first.
Nothing is pickled; the bytes are checked before they are read; a folder with one such pair may be named instead.

    checkpoint = Checkpoint.load("runs/one", device="cuda")
    probabilities = checkpoint.predict(clips)                    # (N, c), 0..1
    names = checkpoint.labels_of(probabilities)                  # [["anger", "disgust"], [], ...]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from data.batches import MAX_STEPS, Batch, Sample, Truncation, collate
from data.clip import Clip
from data.errors import CheckpointError, InputError, SpecMismatch
from data.files import write_whole
from data.labels import LabelSet
from data.spec import MODALITIES, FeatureSpec, Modality
from lamb.derived import NO_SPREAD, widened_dims, with_spread
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings

KIND = "lamb-checkpoint"
SCHEMA = 1
FOLDER_NAME = "model"  # what a pair is called when a folder is named


@dataclass(eq=False)
class Checkpoint:
    """A model with all that its predictions depend on.

    Parameters
    ----------
    thresholds : float32 [shape=(c,)], probability from which a label holds; default 0.5 each.
    temperature : logits are divided by it before the sigmoid; > 0.
    offsets : float32 [shape=(c,)], taken from the model's logits before the temperature; default 0 each. They undo what
        weights on rare labels did to the odds (see :mod:`pipeline.balance`).
    max_steps, truncation : see :func:`data.batches.collate`.
    spread_steps : of text, audio, visual; the model reads the specs' columns and those :mod:`lamb.derived` makes of them.
    metrics, provenance : plain JSON values: what was measured, and from which data, code and seed it came.

    Raises
    ------
    ValueError : the parts disagree on dimensions, labels or thresholds.
    """

    model: LAMB
    label_set: LabelSet
    specs: dict[Modality, FeatureSpec]
    normalization: Normalization
    thresholds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    temperature: float = 1.0
    max_steps: tuple[int, int, int] | None = MAX_STEPS
    truncation: Truncation = "even"
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    spread_steps: tuple[int, int, int] = NO_SPREAD
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        settings = self.model.settings
        if not len(self.thresholds):
            self.thresholds = np.full(settings.n_labels, 0.5)
        self.thresholds = np.asarray(self.thresholds, dtype=np.float32)
        self.offsets = np.asarray(self.offsets if len(self.offsets) else np.zeros(settings.n_labels), np.float32)
        if self.offsets.shape != (settings.n_labels,) or not np.isfinite(self.offsets).all():
            raise ValueError(f"Expected {settings.n_labels} finite offsets but got {self.offsets}")
        if len(self.label_set) != settings.n_labels or self.thresholds.shape != (settings.n_labels,):
            raise ValueError(
                f"Expected {settings.n_labels} labels and thresholds but got {len(self.label_set)} and "
                f"{self.thresholds.shape}"
            )
        if not (np.isfinite(self.thresholds).all() and 0 < self.temperature < float("inf")):
            raise ValueError(f"Expected finite thresholds and temperature > 0 but got {self.temperature}")
        self.spread_steps = (int(self.spread_steps[0]), int(self.spread_steps[1]), int(self.spread_steps[2]))
        if min(self.spread_steps) < 0:
            raise ValueError(f"Expected spread_steps of at least 0 but got {self.spread_steps}")
        text, audio, visual = (self.specs[name].dim for name in MODALITIES)
        widened = widened_dims((text, audio, visual), self.spread_steps)
        for name, dim, given in zip(MODALITIES, settings.dims, widened, strict=True):
            spec = self.specs[name]
            if (spec.modality, given) != (name, dim) or self.normalization.mean[name].shape != (dim,):
                raise ValueError(
                    f"Expected {dim} {name} columns but the spec gives {given} ({spec.modality}) and the statistics "
                    f"{self.normalization.mean[name].shape[0]}"
                )
        if self.truncation not in get_args(Truncation):
            raise ValueError(f"Expected truncation among {get_args(Truncation)} but got {self.truncation!r}")
        if self.max_steps is not None:
            self.max_steps = (int(self.max_steps[0]), int(self.max_steps[1]), int(self.max_steps[2]))
            if min(self.max_steps) < 1:
                raise ValueError(f"Expected max_steps of at least 1 but got {self.max_steps}")
        elif not settings.padding_masks:
            raise ValueError("Expected max_steps for a model without padding masks, which pads to them, but got None")

    @property
    def settings(self) -> ModelSettings:
        return self.model.settings

    def fingerprint(self) -> str:
        """sha256 (hex) of weights, statistics and settings: the same for the same predictions."""
        # settings at their defaults are left out: one that is added later changes no fingerprint
        record = self._record() | {"model": self.settings.model_dump(mode="json", exclude_defaults=True)}
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
        for name, tensor in sorted(_tensors(self, half=False).items()):
            digest.update(name.encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    # ---- features ---------------------------------------------------------------------------------------------------

    def check_spec(self, spec: FeatureSpec) -> None:
        """Raise SpecMismatch, naming what differs, unless features of ``spec`` are what this model was trained on."""
        expected = self.specs[spec.modality]
        differences = expected.differences(spec)
        if differences:
            raise SpecMismatch(
                f"The {spec.modality} features are not those this checkpoint was trained on: {'; '.join(differences)}.",
                remedy=f"Extract them with {expected.extractor} {expected.version}, or train on these features.",
            )

    def usable(self, clip: Clip) -> bool:
        """Whether the clip has a valid step in any modality that this model reads; :meth:`predict` refuses others."""
        return any(clip.tracks[name].observed for name in self.settings.modalities)

    def observes(self, sample: Sample) -> bool:
        """:meth:`usable` of a sample."""
        return any(bool(sample.valid[name].any()) for name in self.settings.modalities)

    def batch(self, clips: Sequence[Clip]) -> Batch:
        """Clips normalised, truncated and padded as this model expects. Raises SpecMismatch."""
        used = self.settings.modalities
        for clip in clips:
            for name in used:
                track = clip.tracks[name]
                if track.observed and track.spec is not self.specs[name]:
                    self.check_spec(track.spec)
        samples = [self.ready(Sample.from_clip(clip)) for clip in clips]
        fixed = not self.settings.padding_masks
        return collate(samples, self.settings.dims, self.max_steps, self.truncation, fixed)

    def ready(self, sample: Sample) -> Sample:
        """A sample of raw features, whole tracks, as the model reads it: columns of spread added, all normalised.

        A modality that the model does not read, or that was not observed, is left empty: it may be of any width.
        """
        values: dict[Modality, np.ndarray] = {}
        valid: dict[Modality, np.ndarray] = {}
        for name in MODALITIES:
            used = name in self.settings.modalities and bool(sample.valid[name].any())
            end = None if used else 0
            values[name] = sample.values[name] if used else np.zeros((0, self.specs[name].dim), np.float32)
            valid[name] = sample.valid[name][:end]
        defined: dict[Modality, np.ndarray] = {
            name: known for name, known in sample.defined.items() if len(valid[name])
        }
        wide = with_spread(replace(sample, values=values, valid=valid, defined=defined), self.spread_steps)
        return self.normalization.apply_to(wide)

    # ---- predictions ------------------------------------------------------------------------------------------------

    def predict(
        self, clips: Sequence[Clip], batch_size: int = 32, device: str | torch.device | None = None
    ) -> np.ndarray:
        """Probabilities float32 [shape=(N, c)], in the order of ``clips`` and of ``label_set``.

        ``device`` (default: where the model is) is where the model is left. Raises SpecMismatch for other features,
        ValueError for clips that :meth:`usable` refuses.
        """
        nothing = [clip.id for clip in clips if not self.usable(clip)]
        if nothing:
            shown = ", ".join(nothing[:5]) + (" …" if len(nothing) > 5 else "")
            raise ValueError(f"Expected clips with an observed modality but {len(nothing)} have none: {shown}")
        if device is not None:
            self.model.to(device)
        self.model.eval()
        # like with like: what is absent from a whole batch costs nothing, and similar lengths need little padding
        order = sorted(range(len(clips)), key=lambda i: _bucket(clips[i]))
        probabilities = np.zeros((len(clips), len(self.label_set)), dtype=np.float32)
        with torch.inference_mode():
            for begin in range(0, len(order), batch_size):
                chosen = order[begin : begin + batch_size]
                batch = self.batch([clips[i] for i in chosen]).to(self.model.device)
                probabilities[chosen] = self.calibrated(self.model(batch)).sigmoid().cpu().numpy()
        return probabilities

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits (N, c) of the model with :attr:`offsets` and :attr:`temperature`: their sigmoid is the probability."""
        if self.offsets.any():
            logits = logits - torch.from_numpy(self.offsets).to(logits.device)
        return logits / self.temperature

    def labels_of(self, probabilities: np.ndarray) -> list[list[str]]:
        """Names of the labels whose probability (N, c) reaches its threshold, per row."""
        return [self.label_set.decode(row) for row in (probabilities >= self.thresholds).astype(np.float32)]

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, half: bool = False) -> Path:
        """Write the pair; ``half`` stores the model's weights as float16. Returns the path of the JSON file.

        ``path`` is ``<name>``, either of its two files, or a folder. Both files are replaced whole.
        """
        from safetensors.torch import save as to_bytes

        weights_path, json_path = pair(path)
        content = to_bytes(_tensors(self, half))
        record = self._record() | {
            "dtype": "float16" if half else "float32",
            "sha256": hashlib.sha256(content).hexdigest(),
            "metrics": self.metrics,
            "provenance": self.provenance,
            "licence": self.licence,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(weights_path, content)
        write_whole(json_path, text.encode())
        return json_path

    def _record(self) -> dict[str, Any]:
        # left out where there is none, so that it changes no fingerprint of checkpoints without
        derived: dict[str, Any] = {"spread_steps": list(self.spread_steps)} if any(self.spread_steps) else {}
        if self.offsets.any():
            derived["offsets"] = [float(value) for value in self.offsets]
        return derived | {
            "kind": KIND,
            "schema": SCHEMA,
            "model": self.settings.model_dump(mode="json"),
            "labels": list(self.label_set.names),
            "specs": {
                name: self.specs[name].to_dict() | {"fingerprint": self.specs[name].fingerprint()}
                for name in MODALITIES
            },
            "normalization_clip_std": self.normalization.clip,
            "thresholds": [float(value) for value in self.thresholds],
            "temperature": self.temperature,
            "max_steps": None if self.max_steps is None else list(self.max_steps),
            "truncation": self.truncation,
        }

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
        """Read a pair that :meth:`save` wrote, model in eval mode on ``device``.

        Raises CheckpointError with one line: missing, damaged, of another schema, or with wrong tensors.
        """
        weights_path, json_path = pair(path)
        record = _read_record(json_path)
        tensors = _read_tensors(weights_path, record.get("sha256"))
        try:
            settings = ModelSettings.parse(record["model"])
            specs: dict[Modality, FeatureSpec] = {}
            for name in MODALITIES:
                described = dict(record["specs"][name])
                fingerprint = described.pop("fingerprint")
                specs[name] = FeatureSpec.from_dict(described)
                if specs[name].fingerprint() != fingerprint:
                    raise ValueError(f"the {name} spec is not the one its fingerprint was taken of")
            model = _build(settings, {key: value for key, value in tensors.items() if key.startswith("model.")})
            normalization = Normalization(
                {name: tensors[f"normalization.{name}.mean"].numpy() for name in MODALITIES},
                {name: tensors[f"normalization.{name}.std"].numpy() for name in MODALITIES},
                record["normalization_clip_std"],
            )
            checkpoint = cls(
                model=model,
                label_set=LabelSet(tuple(record["labels"])),
                specs=specs,
                normalization=normalization,
                thresholds=np.array(record["thresholds"], dtype=np.float32),
                temperature=float(record["temperature"]),
                max_steps=None if record["max_steps"] is None else tuple(record["max_steps"]),
                truncation=record["truncation"],
                metrics=record["metrics"],
                provenance=record["provenance"],
                licence=record["licence"],
                spread_steps=tuple(record.get("spread_steps", NO_SPREAD)),
                offsets=np.array(record.get("offsets", []), dtype=np.float32),
            )
        except KeyError as error:
            raise _unreadable(json_path, f"{error} is missing") from error
        except (ValueError, TypeError, AttributeError, IndexError, InputError) as error:
            raise _unreadable(json_path, str(error)) from error
        checkpoint.model.to(device).eval()
        return checkpoint


def pair(path: str | Path) -> tuple[Path, Path]:
    """The safetensors and JSON paths that ``path`` means: a name without ending, either file, or a folder.

    In a folder it is the only pair there, else ``model``.
    """
    path = Path(path)
    if path.is_dir():
        names = [found.name.removesuffix(".safetensors") for found in path.glob("*.safetensors")]
        path = path / (names[0] if len(names) == 1 else FOLDER_NAME)
    name = path.name.removesuffix(".safetensors").removesuffix(".json")
    return path.with_name(name + ".safetensors"), path.with_name(name + ".json")


def _bucket(clip: Clip) -> tuple[bool, bool, bool, int]:
    text, audio, visual = (clip.tracks[name] for name in MODALITIES)
    return text.observed, audio.observed, visual.observed, len(text) + len(audio) + len(visual)


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"Expected a LAMB checkpoint at {path} but {why.rstrip('.')}.", remedy="Fetch it again, or train anew."
    )


def _tensors(checkpoint: Checkpoint, half: bool) -> dict[str, Tensor]:
    dtype = torch.float16 if half else torch.float32
    tensors = {
        f"model.{name}": value.detach().to("cpu", dtype).contiguous()
        for name, value in checkpoint.model.state_dict().items()
    }
    for name in MODALITIES:
        tensors[f"normalization.{name}.mean"] = torch.from_numpy(checkpoint.normalization.mean[name].copy())
        tensors[f"normalization.{name}.std"] = torch.from_numpy(checkpoint.normalization.std[name].copy())
    return tensors


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"Expected a LAMB checkpoint at {path} but there is no such file.",
            remedy="Give the name of a pair <name>.safetensors and <name>.json, or the folder it is in.",
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, f"it cannot be read ({error})") from error
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise _unreadable(path, "this JSON describes something else")
    if record.get("schema") != SCHEMA:
        raise CheckpointError(
            f"Expected checkpoint schema {SCHEMA} in {path} but got {record.get('schema')!r}.",
            remedy="Use the version of this program that wrote it, or train anew.",
        )
    return record


def _read_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, f"it cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _unreadable(path, f"its {len(content)} bytes are not those that were saved (sha256 differs)")
    try:
        return from_bytes(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, f"it is no safetensors file ({error})") from error


def _build(settings: ModelSettings, tensors: dict[str, Tensor]) -> LAMB:
    """The model with these weights, float32. Shapes are compared before any memory is taken for the model."""
    with torch.device("meta"):
        model = LAMB(settings)
    state = {name.removeprefix("model."): tensor.to(torch.float32) for name, tensor in tensors.items()}
    expected = model.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state or name not in expected:
            raise ValueError(f"tensor {name} is {'missing' if name not in state else 'not part of this model'}")
        if state[name].shape != expected[name].shape:
            raise ValueError(f"tensor {name} has shape {tuple(state[name].shape)}, not {tuple(expected[name].shape)}")
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"tensor {name} is not finite")
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)
