"""ONNX; what describes the network is in the metadata under the key torchcnn."""

from pathlib import Path

import torch
from torch import Tensor, nn

from torchcnn.formats.description import Run


def write(net: nn.Module, example: Tensor, spec: str, path: Path) -> None:
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
    program.model.metadata_props["torchcnn"] = spec
    program.save(path)


def load(path: Path) -> tuple[Run, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    spec = session.get_modelmeta().custom_metadata_map["torchcnn"]
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), spec
