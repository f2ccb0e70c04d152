"""safetensors: the weights alone; what describes the network is in the metadata under torchcnn."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchcnn.formats.description import Run
from torchcnn.models.registry import build_model


def write(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    # Weights in channels-last are not contiguous, which the format does not take.
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(weights, path, {"torchcnn": json.dumps(about)})


def load(path: Path, model_spec: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    net = build_model(**model_spec).eval()
    net.load_state_dict(load_file(path))
    with safe_open(path, framework="pt") as file:
        return net, json.loads(file.metadata()["torchcnn"])
