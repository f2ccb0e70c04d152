"""torch.export's .pt2 file; what describes the network is in it as torchcnn.json."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.formats.description import Run


def write(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (example,), dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files={"torchcnn.json": json.dumps(about)})


def load(path: Path, model_spec: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    files = {"torchcnn.json": ""}
    net = torch.export.load(path, extra_files=files).module()
    return net, json.loads(files["torchcnn.json"])
