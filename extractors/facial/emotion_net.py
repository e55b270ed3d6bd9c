"""Seven facial emotions from a grey face crop: mini-XCEPTION (Arriaga et al. 2017) in torch, from its Keras weights.

In: grey crops [shape=(n, 64, 64)], uint8 or float 0..255. Out: probabilities [shape=(n, 7)], rows sum to 1, in the order
of FER-2013: angry, disgust, fear, happy, sad, surprise, neutral (our columns anger … neutral).

    net = EmotionNet.load(resolve("facial-emotions").file("emotion_model.hdf5"))
    probabilities = net.predict(crops)

The network, sizes for 64×64 input: two 3×3 convolutions (8, unpadded: 62, 60), four blocks of two separable 3×3
convolutions with a 3×3 max pool of stride 2 beside a strided 1×1 convolution (16, 32, 64, 128: 30, 15, 8, 4), a 3×3
convolution to 7, the mean over space, softmax. Batch normalisation is folded into the convolution before it, which is
exact because it has no bias.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.errors import WeightsError

N_EMOTIONS = 7
BATCH_NORM_EPSILON = 1e-3  # Keras' default, and what the file's own model_config says
BLOCK_CHANNELS = (16, 32, 64, 128)

# (layer, the batch normalisation behind it), in the file's numbering
STEM = (("conv2d_1", 1), ("conv2d_2", 2))
SEPARABLE = (  # the two of each block
    (("separable_conv2d_1", 4), ("separable_conv2d_2", 5)),
    (("separable_conv2d_3", 7), ("separable_conv2d_4", 8)),
    (("separable_conv2d_5", 10), ("separable_conv2d_6", 11)),
    (("separable_conv2d_7", 13), ("separable_conv2d_8", 14)),
)
SHORTCUT = (("conv2d_3", 3), ("conv2d_4", 6), ("conv2d_5", 9), ("conv2d_6", 12))


def max_pool_same(x: Tensor) -> Tensor:
    """3×3 maximum with stride 2, Keras' "same": half the size, rounded up; the odd cell of padding goes after (TensorFlow's
    rule), so an even size has none before."""
    return functional.max_pool2d(x, 3, 2, padding=x.shape[-1] % 2, ceil_mode=True)


class SeparableConv(nn.Module):
    """3×3 depthwise, then 1×1 pointwise with the folded normalisation; "same" size."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in, bias=False)
        self.pointwise = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Block(nn.Module):
    """Two separable convolutions and a pool, beside a strided 1×1 shortcut; halves the size (rounding up)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = SeparableConv(n_in, n_out)
        self.second = SeparableConv(n_out, n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu_())
        return max_pool_same(y).add_(self.shortcut(x))


class EmotionNet(nn.Module):
    """mini-XCEPTION. ``forward`` takes (n, 1, 64, 64) in [-1, 1] and returns logits (n, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1 = nn.Conv2d(1, 8, 3)
        self.stem2 = nn.Conv2d(8, 8, 3)
        channels = (8, *BLOCK_CHANNELS)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(channels, BLOCK_CHANNELS, strict=False)))
        self.head = nn.Conv2d(BLOCK_CHANNELS[-1], N_EMOTIONS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem2(self.stem1(x).relu_()).relu_()  # (n, 8, 60, 60)
        return self.head(self.blocks(x)).mean(dim=(2, 3))  # (n, 128, 4, 4) → (n, 7)

    @torch.inference_mode()
    def predict(self, crops: np.ndarray) -> np.ndarray:
        """Probabilities, float32 [shape=(n, 7)], of grey crops 0..255 [shape=(n, 64, 64)]."""
        if len(crops) == 0:
            return np.zeros((0, N_EMOTIONS), np.float32)
        pixels = torch.from_numpy(np.asarray(crops, dtype=np.float32))[:, None]  # (n, 1, 64, 64)
        return torch.softmax(self(pixels / 127.5 - 1.0), dim=1).numpy()

    @classmethod
    def load(cls, path: Path) -> EmotionNet:
        """The network with the weights of a Keras file. Raises WeightsError if a tensor is missing or misshaped."""
        net = cls()
        try:
            with h5py.File(path, "r") as file:
                net.load_state_dict(_folded_weights(file["model_weights"]))
        except (OSError, KeyError, RuntimeError) as error:
            raise WeightsError(
                f"Expected mini-XCEPTION weights in {path} but they cannot be used: {error}.",
                remedy="Run `lamb weights fetch facial-emotions`.",
            ) from error
        # Channels last: .8 ms a face in batches of 8 instead of 1.2, on one core with AVX2.
        return net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _folded_weights(group) -> dict[str, Tensor]:
    """State dict of :class:`EmotionNet` from the file's ``model_weights`` group."""

    def tensor(layer: str, name: str) -> np.ndarray:
        return group[f"{layer}/{layer}_1/{name}:0"][()].astype(np.float64)

    def fold(kernel: np.ndarray, norm: int) -> tuple[Tensor, Tensor]:
        """γ(Wx − μ)/√(σ²+ε) + β as one convolution; Keras kernels are (height, width, in, out)."""
        gamma, beta, mean, variance = (
            tensor(f"batch_normalization_{norm}", name) for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return as_torch(kernel * scale), torch.from_numpy(beta - mean * scale).float()

    def as_torch(kernel: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))).float()  # (out, in, height, width)

    state: dict[str, Tensor] = {}
    for i, (layer, norm) in enumerate(STEM):
        state[f"stem{i + 1}.weight"], state[f"stem{i + 1}.bias"] = fold(tensor(layer, "kernel"), norm)
    for i, pair in enumerate(SEPARABLE):
        for name, (layer, norm) in zip(("first", "second"), pair, strict=True):
            # depthwise kernels are (height, width, in, 1): torch wants (in, 1, height, width)
            depthwise = tensor(layer, "depthwise_kernel").transpose(2, 3, 0, 1)
            state[f"blocks.{i}.{name}.depthwise.weight"] = torch.from_numpy(np.ascontiguousarray(depthwise)).float()
            weight, bias = fold(tensor(layer, "pointwise_kernel"), norm)
            state[f"blocks.{i}.{name}.pointwise.weight"], state[f"blocks.{i}.{name}.pointwise.bias"] = weight, bias
        layer, norm = SHORTCUT[i]
        weight, bias = fold(tensor(layer, "kernel"), norm)
        state[f"blocks.{i}.shortcut.weight"], state[f"blocks.{i}.shortcut.bias"] = weight, bias
    state["head.weight"] = as_torch(tensor("conv2d_7", "kernel"))
    state["head.bias"] = torch.from_numpy(tensor("conv2d_7", "bias")).float()
    return state
