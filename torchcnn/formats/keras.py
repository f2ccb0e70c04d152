"""Keras's .keras file; what describes the network is in it as torchcnn.json."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.formats.description import Normalized, Run
from torchcnn.keras_io import to_keras


def write(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    import keras

    _, c, h, w = example.shape
    if isinstance(net, Normalized):
        model = to_keras(net.net, (c, h, w))
        variance = net.std.square().flatten().tolist()
        normalize = keras.layers.Normalization(mean=net.mean.flatten().tolist(), variance=variance)
        images = keras.Input((h, w, c))
        model = keras.Model(images, model(normalize(images)))
    else:
        model = to_keras(net, (c, h, w))
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("torchcnn.json", json.dumps(about))


def load(path: Path, model_spec: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    import keras

    net = keras.models.load_model(path)

    def run(x: Tensor) -> Tensor:
        y = net(x.permute(0, 2, 3, 1).numpy(), training=False)
        return torch.tensor(keras.ops.convert_to_numpy(y))

    with zipfile.ZipFile(path) as archive:
        return run, json.loads(archive.read("torchcnn.json"))
