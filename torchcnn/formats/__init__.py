"""Formats in which other programs load a trained network; each is written and loaded in its file.

To add one, write a module with these functions, and enter it in `FORMATS`:

    write(net, example, description, path)  # the description is `ModelSpec.to_json`'s
    load(path) -> (run, description)  # `run` computes the logits of images (n, c, h, w)
"""

from importlib import import_module
from typing import Any, NamedTuple


class Format(NamedTuple):
    """A format; every one keeps the description of the network as JSON, see `ModelSpec.to_json`."""

    suffix: str
    computes: bool  # whether it holds what is computed, and not the weights alone
    needs: str  # what to install with pip
    file: str  # of this folder, with its functions

    @property
    def module(self) -> Any:
        """The module of the format, which is imported only now, because it needs PyTorch."""
        return import_module(f"{__name__}.{self.file}")


FORMATS = {
    "keras": Format(".keras", True, "torchcnn[keras]", "keras"),
    "onnx": Format(".onnx", True, "torchcnn[onnx]", "onnx"),
    "torch-export": Format(".pt2", True, "", "torch_export"),
    "safetensors": Format(".safetensors", False, "", "safetensors"),
    "txt": Format(".txt", False, "", "txt"),
}
