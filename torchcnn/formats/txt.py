"""Text: the name, the shape and the numbers of each tensor; the first line describes the network.

The numbers have as many digits as are needed to read the same ones again.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchcnn.formats.description import Run
from torchcnn.models.registry import build_model


def write(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"# {json.dumps(about)}\n")
        for name, tensor in net.state_dict().items():
            numbers = np.array2string(tensor.numpy(), threshold=sys.maxsize, floatmode="unique")
            # A blank line ends a tensor; numpy writes some between matrices, too.
            lines = "\n".join(line for line in numbers.split("\n") if line.strip())
            file.write(f"{name}\n{tuple(tensor.shape)}\n{lines}\n\n")


def load(path: Path, model_spec: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    net = build_model(**model_spec).eval()
    weights = {}
    kinds = {name: tensor.dtype for name, tensor in net.state_dict().items()}
    for block in text.strip().split("\n\n"):
        name, shape, numbers = block.split("\n", 2)
        values = np.array(re.sub(r"[\[\]]", " ", numbers).split(), dtype=np.float64)
        sides = [int(side) for side in re.findall(r"\d+", shape)]
        weights[name] = torch.from_numpy(values.reshape(sides)).to(kinds[name])
    net.load_state_dict(weights)
    return net, json.loads(first.removeprefix("# "))
