"""The emotion network against a plain numpy forward of the same weights, and on pictures of posed emotions."""

from __future__ import annotations

import numpy as np
import pytest

from data.errors import WeightsError
from extractors.weights import resolve

ORDER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


@pytest.fixture(scope="module")
def weights_file():
    return resolve("facial-emotions").file("emotion_model.hdf5")


@pytest.fixture(scope="module")
def net(weights_file):
    from extractors.facial.emotion_net import EmotionNet

    return EmotionNet.load(weights_file)


# ---- an independent forward: numpy only, normalisation not folded, convolution as sums over shifted images


def _same(x: np.ndarray, kernel: int, stride: int, fill: float) -> np.ndarray:
    """TensorFlow's 'same' padding of (H, W, C): output ceil(n/stride); the odd cell goes to the end."""
    pads = []
    for n in x.shape[:2]:
        out = int(np.ceil(n / stride))
        total = max((out - 1) * stride + kernel - n, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [*pads, (0, 0)], constant_values=fill)


def _windows(x: np.ndarray, kernel: int, stride: int):
    height, width = (x.shape[0] - kernel) // stride + 1, (x.shape[1] - kernel) // stride + 1
    for i in range(kernel):
        for j in range(kernel):
            yield i, j, x[i : i + stride * height : stride, j : j + stride * width : stride][:height, :width]


def _conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    return sum(window @ kernel[i, j] for i, j, window in _windows(x, kernel.shape[0], stride))


def _depthwise(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return sum(window * kernel[i, j, :, 0] for i, j, window in _windows(_same(x, 3, 1, 0.0), 3, 1))


def _reference(file, image: np.ndarray) -> np.ndarray:
    group = file["model_weights"]

    def w(layer: str, name: str) -> np.ndarray:
        return group[layer][layer + "_1"][name + ":0"][()].astype(np.float64)

    def norm(x: np.ndarray, k: int) -> np.ndarray:
        layer = f"batch_normalization_{k}"
        centred = (x - w(layer, "moving_mean")) / np.sqrt(w(layer, "moving_variance") + 1e-3)
        return w(layer, "gamma") * centred + w(layer, "beta")

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    def separable(x: np.ndarray, k: int) -> np.ndarray:
        layer = f"separable_conv2d_{k}"
        return _depthwise(x, w(layer, "depthwise_kernel")) @ w(layer, "pointwise_kernel")[0, 0]

    x = image[:, :, None] / 255.0
    x = (x - 0.5) * 2.0
    x = relu(norm(_conv(x, w("conv2d_1", "kernel")), 1))
    x = relu(norm(_conv(x, w("conv2d_2", "kernel")), 2))
    for b in range(4):
        shortcut = norm(x[::2, ::2] @ w(f"conv2d_{3 + b}", "kernel")[0, 0], 3 * (b + 1))
        y = relu(norm(separable(x, 2 * b + 1), 3 * b + 4))
        y = norm(separable(y, 2 * b + 2), 3 * b + 5)
        pooled = np.max([window for _, _, window in _windows(_same(y, 3, 2, -np.inf), 3, 2)], axis=0)
        x = pooled + shortcut
    x = _conv(_same(x, 3, 1, 0.0), w("conv2d_7", "kernel")) + w("conv2d_7", "bias")
    logits = x.mean(axis=(0, 1))
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def test_torch_network_equals_numpy_forward(net, weights_file):
    import h5py

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 64, 64)).astype(np.float64)
    ramp = np.add.outer(np.linspace(0, 200, 64), np.linspace(0, 55, 64))[None]  # uneven in both axes: pads matter
    images = np.concatenate([noise, ramp])
    with h5py.File(weights_file, "r") as file:
        expected = np.stack([_reference(file, image) for image in images])
    np.testing.assert_allclose(net.predict(images), expected, atol=2e-5)
    assert expected.std(axis=0).max() > 1e-3  # the images do differ, so the comparison says something


@pytest.mark.parametrize("size", [60, 30, 15, 8])  # the four of the network
def test_the_pool_is_keras_same(size):
    import torch

    from extractors.facial.emotion_net import max_pool_same

    x = np.random.default_rng(size).standard_normal((size, size, 3)) - 5.0  # all negative: a padding of 0 would show
    expected = np.max([window for _, _, window in _windows(_same(x, 3, 2, -np.inf), 3, 2)], axis=0)
    pooled = max_pool_same(torch.from_numpy(x.transpose(2, 0, 1))[None])[0].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(pooled, expected)


def test_no_crops_no_rows(net):
    assert net.predict(np.zeros((0, 64, 64))).shape == (0, 7)


def test_wrong_file_is_a_named_error(tmp_path):
    from extractors.facial.emotion_net import EmotionNet

    path = tmp_path / "x.hdf5"
    path.write_bytes(b"not hdf5")
    with pytest.raises(WeightsError, match="mini-XCEPTION"):
        EmotionNet.load(path)
