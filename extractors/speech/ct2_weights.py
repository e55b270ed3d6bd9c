"""CTranslate2's Whisper weights for openai-whisper: a reader of the binary file and the renaming of its tensors.

In: ``model.bin`` of a CTranslate2 Whisper conversion in float16 or float32 (any size). Out: an ``whisper.Whisper`` model
with the same weights, so that one packaged file serves both engines. The layout (little-endian, no alignment):
``u32 version · str spec · u32 revision · u32 count · count × (str name · u8 rank · rank × u32 dims · u8 type · u32 bytes ·
data) · u32 aliases · aliases × (str alias · str name)``, where ``str`` is ``u16 length · bytes`` ending in a zero byte.

    variables = read_variables(Path("model.bin"))     # {"encoder/conv1/weight": array (384, 80, 3) float16, …}
    model = build_whisper(Path("model.bin"), "cpu")
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import WeightsError

if TYPE_CHECKING:
    from whisper.model import Whisper

VERSION = 6
SPEC = "WhisperSpec"
MAX_RANK = 4
BFLOAT16 = 5  # numpy has none; such conversions are rare and are refused
TYPES = {0: np.dtype("<f4"), 1: np.dtype("i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 4: np.dtype("<f2")}

# CTranslate2's layer names → openai-whisper's, inside encoder/layer_i and decoder/layer_i
PARTS = {
    "self_attention/layer_norm": "attn_ln",
    "self_attention/linear_1": "attn.out",
    "attention/layer_norm": "cross_attn_ln",
    "attention/linear_0": "cross_attn.query",
    "attention/linear_2": "cross_attn.out",
    "ffn/layer_norm": "mlp_ln",
    "ffn/linear_0": "mlp.0",
    "ffn/linear_1": "mlp.2",
}
# one CTranslate2 tensor = several of openai-whisper's, one below the other
FUSED = {
    "self_attention/linear_0": ("attn.query", "attn.key", "attn.value"),
    "attention/linear_1": ("cross_attn.key", "cross_attn.value"),
}
OUTSIDE = {
    "encoder/conv1": "encoder.conv1",
    "encoder/conv2": "encoder.conv2",
    "encoder/layer_norm": "encoder.ln_post",
    "decoder/layer_norm": "decoder.ln",
    "decoder/embeddings": "decoder.token_embedding",
}
POSITIONS = {
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
}
LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


class _Reader:
    """A cursor over the file's bytes; running off the end is a WeightsError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise WeightsError(f"Expected a CTranslate2 model at {path} but it cannot be read: {error}.") from error
        self.at = 0

    def take(self, n_bytes: int) -> np.ndarray:
        piece = self.data[self.at : self.at + n_bytes]
        if len(piece) != n_bytes:
            raise self.error(f"ends at byte {len(self.data)} where {self.at + n_bytes} were expected")
        self.at += n_bytes
        return piece

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)).tobytes())[0]

    def text(self) -> str:
        piece = self.take(self.number("H")).tobytes()
        if not piece.endswith(b"\0") or not piece[:-1].isascii():
            raise self.error(f"has a malformed name before byte {self.at}")
        return piece[:-1].decode("ascii")

    def error(self, what: str) -> WeightsError:
        return WeightsError(
            f"Expected a CTranslate2 Whisper model but {self.path} {what}.",
            code="weights_corrupt",
            remedy="Get the file again, or use another model.",
        )


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """All variables of the file by name, as read-only views of the mapped file; aliases are left out.

    Raises WeightsError if the file is missing, truncated, not a Whisper model, or of another layout.
    """
    reader = _Reader(path)
    version = reader.number("I")
    if version != VERSION:
        raise reader.error(f"has layout version {version}, this reader knows {VERSION}")
    spec = reader.text()
    if spec != SPEC:
        raise reader.error(f"holds a {spec!r} model")
    reader.number("I")  # the spec's revision: names and shapes are checked one by one instead
    variables: dict[str, np.ndarray] = {}
    for _ in range(reader.number("I")):
        name, rank = reader.text(), reader.number("B")
        if rank > MAX_RANK:
            raise reader.error(f"gives {name} rank {rank}")
        dims = tuple(reader.number("I") for _ in range(rank))
        kind, n_bytes = reader.number("B"), reader.number("I")
        if kind not in TYPES:
            raise reader.error(f"stores {name} as type {kind}" + (" (bfloat16)" if kind == BFLOAT16 else ""))
        if n_bytes != int(np.prod(dims, dtype=np.int64)) * TYPES[kind].itemsize:
            raise reader.error(f"stores {name} of shape {dims} in {n_bytes} bytes")
        variables[name] = reader.take(n_bytes).view(TYPES[kind]).reshape(dims)
    for _ in range(reader.number("I")):
        reader.text()
        reader.text()
    if reader.at != len(reader.data):
        raise reader.error(f"goes on for {len(reader.data) - reader.at} bytes after its last tensor")
    return variables


def whisper_tensors(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors under openai-whisper's names, float32, fused projections taken apart.

    Raises WeightsError for an integer-quantised tensor, an unknown name, or a key projection with a bias (Whisper has none).
    """
    tensors: dict[str, np.ndarray] = {}
    for name, values in variables.items():
        stem, _, leaf = name.rpartition("/")
        if name in POSITIONS:
            tensors[POSITIONS[name]] = values.astype(np.float32)
            continue
        if leaf not in LEAVES:
            if values.ndim == 0:  # settings of the graph, such as num_heads
                continue
            raise WeightsError(f"Expected float Whisper tensors but the file holds {name} of shape {values.shape}.")
        if values.dtype.kind != "f":
            raise WeightsError(
                f"Expected float16 or float32 weights but {name} is {values.dtype}.",
                remedy="Convert the model without integer quantisation, or use the faster-whisper engine.",
            )
        values = values.astype(np.float32)
        if stem in OUTSIDE:
            tensors[f"{OUTSIDE[stem]}.{LEAVES[leaf]}"] = values
            continue
        side, layer, part = [*stem.split("/", 2), "", ""][:3]
        block = f"{side}.blocks.{layer.removeprefix('layer_')}"
        if part in PARTS:
            tensors[f"{block}.{PARTS[part]}.{LEAVES[leaf]}"] = values
        elif part in FUSED and len(values) % len(FUSED[part]) == 0:
            for target, piece in zip(FUSED[part], np.split(values, len(FUSED[part])), strict=True):
                if target.endswith(".key") and leaf == "bias":
                    if piece.any():
                        raise WeightsError(f"Expected no bias on Whisper's keys but {name} has one.")
                    continue
                tensors[f"{block}.{target}.{LEAVES[leaf]}"] = piece
        else:
            raise WeightsError(f"Expected a Whisper tensor but the file holds {name}.")
    return tensors


def whisper_dimensions(variables: dict[str, np.ndarray]) -> dict[str, int]:
    """openai-whisper's ModelDimensions, read off the shapes; tiny.en: 80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4."""

    def layers(side: str) -> int:
        return len(
            {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and "norm/" in name}
            - {"layer_norm"}
        )

    try:
        n_mels = variables["encoder/conv1/weight"].shape[1]
        n_audio_ctx, n_audio_state = variables["encoder/position_encodings/encodings"].shape
        n_text_ctx, n_text_state = variables["decoder/position_encodings/encodings"].shape
        return {
            "n_mels": n_mels,
            "n_audio_ctx": n_audio_ctx,
            "n_audio_state": n_audio_state,
            "n_audio_head": int(variables["encoder/num_heads"]),
            "n_audio_layer": layers("encoder"),
            "n_vocab": variables["decoder/embeddings/weight"].shape[0],
            "n_text_ctx": n_text_ctx,
            "n_text_state": n_text_state,
            "n_text_head": int(variables["decoder/num_heads"]),
            "n_text_layer": layers("decoder"),
        }
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"Expected a whole Whisper model but a tensor is missing or misshapen: {error}.") from error


def build_whisper(path: Path, device: str) -> Whisper:
    """An openai-whisper model with the file's weights, every name matched (strict), in evaluation mode.

    Raises WeightsError if the file is not a whole float Whisper model. Alignment heads are the caller's to set.
    """
    import torch
    from whisper.model import ModelDimensions, Whisper

    variables = read_variables(path)
    tensors = whisper_tensors(variables)
    model = Whisper(ModelDimensions(**whisper_dimensions(variables)))
    try:
        model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()}, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"Expected {path} to fit openai-whisper's model: {error}.") from error
    return model.eval().to(device)
