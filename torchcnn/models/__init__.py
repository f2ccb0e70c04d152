"""The networks: one paper, one file, and one table of them all."""

import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from torchcnn.models.densenet import densenet
from torchcnn.models.lenet import lenet
from torchcnn.models.resnet import resnet18

__all__ = ["MODELS", "create_model", "densenet", "lenet", "list_models", "resnet18"]


@dataclass(frozen=True)
class Recipe:
    """How the network's source trains it."""

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    input_size: int  # pixels a side


@dataclass(frozen=True)
class Model:
    builder: Callable[..., nn.Module]
    input: tuple[int, int, int]  # channels, height, width
    recipe: Recipe


MODELS: dict[str, Model] = {
    # name            builder    input                  optimizer   lr batch epochs size
    "lenet":    Model(lenet,    (1, 28, 28),   Recipe("adam",     1e-3, 256,  5,    28)),
    "resnet18": Model(resnet18, (1, 224, 224), Recipe("adam",     1e-3, 256,  5,    96)),
    "densenet": Model(densenet, (1, 96, 96),   Recipe("adam",     1e-3, 256,  5,    96)),
}  # fmt: skip


def list_models(pattern: str = "*") -> list[str]:
    """The names of the networks that match a shell-style pattern, such as `"tf_*"`."""
    return fnmatch.filter(MODELS, pattern)


def find_model(name: str) -> Model:
    """The entry of a network in the table.

    Raises:
        ValueError: an unknown name; the message says which names are close, or all.
    """
    if name not in MODELS:
        close = get_close_matches(name, MODELS)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(MODELS)}"
        raise ValueError(f"unknown network {name!r}; {hint}")
    return MODELS[name]


def create_model(name: str, input_size: int | None = None, **options: Any) -> nn.Module:
    """A network by its name: (n, in_channels, h, w) float -> logits (n, num_classes).

    Args:
        name: one of `list_models()`.
        input_size: pixels a side; a head that is bound to a size is built for it, and a size that
            the network cannot take fails here, not in the first batch.
        options: what the network's builder takes: `in_channels`, `num_classes`, and `norm_layer`
            where it has norms; what is not given is the source's.

    Raises:
        ValueError: an unknown name or option, or an input size that is too small.
    """
    builder = find_model(name).builder
    known = inspect.signature(builder).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"{name} takes {', '.join(known)}, got {', '.join(unknown)}")
    if input_size is not None:
        if "input_size" in known:
            options["input_size"] = input_size
        _check_size(name, input_size, options)
    return builder(**options)


def _check_size(name: str, size: int, options: dict[str, Any]) -> None:
    """Pass one image through the network without computing anything, on the meta device."""
    channels = options.get("in_channels", MODELS[name].input[0])

    def takes(size: int) -> bool:
        try:
            net(torch.empty(1, channels, size, size))
        except RuntimeError:
            return False
        return True

    with torch.device("meta"), torch.no_grad():
        net = MODELS[name].builder(**options).eval()
        if size < 1 or not takes(size):
            least = next((s for s in range(max(size, 0) + 1, 1024) if takes(s)), None)
            raise ValueError(
                f"{name} cannot take {size}×{size} images; the least input size is {least}"
            )
