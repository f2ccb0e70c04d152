"""Text: the name, the shape and the numbers of each tensor; the first line describes the network.

Each row of the last dimension is a line, and a blank line ends a tensor. The numbers have as many
digits as are needed to read the same ones again.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchcnn.formats.description import Run
from torchcnn.models.spec import ModelSpec

BRACKETS = str.maketrans("[]", "  ")


def write(net: nn.Module, example: Tensor, spec: str, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"# {spec}\n")
        for name, tensor in net.state_dict().items():
            file.write(f"{name}\n{tuple(tensor.shape)}\n")
            file.writelines(_lines(tensor))
            file.write("\n")


def _lines(tensor: Tensor) -> Iterator[str]:
    # Not numpy's `array2string`, whose time grows with the square of the numbers.
    rows = tensor.numpy().reshape(-1, tensor.shape[-1] if tensor.dim() else 1)
    for start in range(0, len(rows), 1024):
        for row in rows[start : start + 1024].astype(str).tolist():
            yield f"[{' '.join(row)}]\n"


def load(path: Path) -> tuple[Run, str]:
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    spec = first.removeprefix("# ")
    net = ModelSpec.from_json(spec).build().eval()
    weights = {}
    kinds = {name: tensor.dtype for name, tensor in net.state_dict().items()}
    for block in text.strip().split("\n\n"):
        name, shape, numbers = block.split("\n", 2)
        values = np.fromstring(numbers.translate(BRACKETS), sep=" ")
        sides = [int(side) for side in re.findall(r"\d+", shape)]
        weights[name] = torch.from_numpy(values.reshape(sides)).to(kinds[name])
    net.load_state_dict(weights)
    return net, spec
