"""Keras's .keras file; what describes the network is in it as torchcnn.json."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from torchcnn.formats.description import Normalized, Run
from torchcnn.keras_io import to_keras


def write(net: nn.Module, example: Tensor, spec: str, path: Path) -> None:
    import keras

    _, c, h, w = example.shape
    model = to_keras(net.net if isinstance(net, Normalized) else net, (c, h, w))
    if isinstance(net, Normalized):
        variance = net.std.square().flatten().tolist()
        normalize = keras.layers.Normalization(mean=net.mean.flatten().tolist(), variance=variance)
        images = keras.Input((h, w, c))
        model = keras.Model(images, model(normalize(images)))
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("torchcnn.json", spec)


def load(path: Path) -> tuple[Run, str]:
    import keras

    net = keras.models.load_model(path)

    def run(x: Tensor) -> Tensor:
        y = net(x.permute(0, 2, 3, 1).numpy(), training=False)
        return torch.tensor(keras.ops.convert_to_numpy(y))

    with zipfile.ZipFile(path) as archive:
        return run, archive.read("torchcnn.json").decode()
