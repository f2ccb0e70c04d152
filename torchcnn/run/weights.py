"""Weights to start from: of a run, a checkpoint, a safetensors file, or a file of torchvision."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.models import MODELS
from torchcnn.models.from_torchvision import from_torchvision
from torchcnn.models.pretrained import list_pretrained, read_pretrained
from torchcnn.models.weights import start_from
from torchcnn.run.checkpoint import Normalization, checkpoint_file, load_checkpoint, normalization

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and std of its training images


@dataclass(frozen=True)
class Weights:
    """Weights by name, and what they were trained on."""

    tensors: dict[str, Tensor]
    num_classes: int
    normalization: Normalization | None

    def load_into(self, net: nn.Module, num_classes: int) -> str:
        """Copy them into a network; see `torchcnn.models.weights.start_from`."""
        return start_from(net, self.tensors, (self.num_classes, num_classes))


def read_weights(source: str, arch: str) -> Weights:
    """Read weights of a run, a checkpoint, a .safetensors file, a state dict, or of this package.

    A state dict, saved by `torch.save`, has the names of this network, or those of torchvision.
    Nothing in a file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or is not of the network.
    """
    path = Path(source).expanduser()
    if source in list_pretrained() and not path.exists():
        tensors, about = read_pretrained(source)
        return Weights(tensors, len(about["classes"]), normalization(about))
    if path.is_dir():
        path = checkpoint_file(path)
    if not path.is_file():
        names = ", ".join(list_pretrained())
        raise FileNotFoundError(
            f"--init {source}: there is no such run or file; in the package are {names}"
        )
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file provokes many kinds in torch's reader
        kind = type(error).__name__
        raise ValueError(f"--init {source} is damaged, or holds no weights ({kind})") from error
    if isinstance(content, dict) and "torchcnn" in content:
        checkpoint = load_checkpoint(path)
        tensors = (checkpoint["average"] or checkpoint)["weights"]
        return Weights(tensors, len(checkpoint["classes"]), normalization(checkpoint))
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    tensors = content if isinstance(content, dict) else {}
    if not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise ValueError(f"--init {source} is no state dict: a dict of tensors by their names")
    return of_state_dict(dict(tensors), arch)


def of_state_dict(tensors: dict[str, Tensor], arch: str) -> Weights:
    """Take a state dict in the names of this package, or in torchvision's."""
    # A module of your own may have such names too.
    is_theirs = arch in MODELS and any(n.startswith(("features.", "layer1.")) for n in tensors)
    if is_theirs:
        tensors = from_torchvision(arch, tensors)
    matrices = [tensor for tensor in tensors.values() if tensor.dim() >= 2]
    if not matrices:
        raise ValueError("the weights are not those of a network")
    return Weights(tensors, len(matrices[-1]), IMAGENET if is_theirs else None)


def read_safetensors(path: Path) -> Weights:
    """Read what `torchcnn.export --to safetensors` wrote.

    Raises:
        ValueError: it is damaged, or of another program.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["torchcnn"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Weights(tensors, len(about["classes"]), normalization(about))
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{path} is damaged, or not one of torchcnn ({kind})") from error
