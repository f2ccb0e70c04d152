"""torch.export's .pt2 file; what describes the network is in it as torchcnn.json."""

from pathlib import Path

import torch
from torch import Tensor, nn

from torchcnn.formats.description import Run


def write(net: nn.Module, example: Tensor, spec: str, path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (example,), dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files={"torchcnn.json": spec})


def load(path: Path) -> tuple[Run, str]:
    files = {"torchcnn.json": ""}
    net = torch.export.load(path, extra_files=files).module()
    return net, files["torchcnn.json"]
