"""Formats in which other programs load a trained network; each is written and loaded in its file.

To add one, write a module with `write` and `load`, and enter it in `FORMATS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from torchcnn.formats import keras, onnx, safetensors, torch_export, txt
from torchcnn.formats.description import Run


class Format(NamedTuple):
    """A format; every one keeps the description of the network as JSON, see `ModelSpec.to_json`."""

    suffix: str
    computes: bool  # whether it holds what is computed, and not the weights alone
    needs: str  # what to install with pip
    write: Callable[[nn.Module, Tensor, str, Path], None]  # net, example, the JSON, path
    load: Callable[[Path], tuple[Run, str]]  # also returns the JSON


FORMATS = {
    "keras": Format(".keras", True, "torchcnn[keras]", keras.write, keras.load),
    "onnx": Format(".onnx", True, "torchcnn[onnx]", onnx.write, onnx.load),
    "torch-export": Format(".pt2", True, "", torch_export.write, torch_export.load),
    "safetensors": Format(".safetensors", False, "", safetensors.write, safetensors.load),
    "txt": Format(".txt", False, "", txt.write, txt.load),
}
