"""ONNX; what describes the network is in the metadata under the key torchcnn."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.formats.description import Run


def write(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    import onnx  # noqa: F401  torch's exporter needs both
    import onnxscript  # noqa: F401

    program = torch.onnx.export(
        net,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
    )
    assert program is not None
    program.model.metadata_props["torchcnn"] = json.dumps(about)
    program.save(path)


def load(path: Path, model_spec: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["torchcnn"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), about
