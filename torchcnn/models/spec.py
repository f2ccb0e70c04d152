"""What a network is, in one description that every file of its weights carries."""

import inspect
import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.files import read_dataclass
from torchcnn.layers import BatchNorm, KerasBatchNorm2d
from torchcnn.models.build import build
from torchcnn.models.registry import find_model
from torchcnn.names import RESIZES


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that is needed to build a network again and to give it a picture.

    Checkpoints and exported files hold it as JSON, see `to_json`. A network that was built or
    loaded by it has it as the attribute `spec`.
    """

    arch: str  # its name in `list_models()`, or the class of a module of your own
    own: bool = False  # whether it is a module of your own, which only your code can build
    in_channels: int
    classes: tuple[str, ...]  # the names of its outputs
    input_size: int  # height and width of its images in pixels
    mean: tuple[float, ...]  # of each channel: it takes (x - mean) / std, for x in [0, 1]
    std: tuple[float, ...]
    resize: str = "squeeze"  # how pictures become squares, see `torchcnn.data.decode.read_image`
    norm: str = "torch"  # or "scratch": the batch norm that is written by hand
    small_input: bool = False  # a stem for images of about 30 pixels
    options: dict[str, Any] = field(default_factory=dict)  # others of the network's builder

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.in_channels, self.input_size, self.input_size

    @property
    def is_normalized(self) -> bool:
        """Whether the network takes other numbers than those of the image."""
        return any(self.mean) or any(x != 1 for x in self.std)

    def build(self) -> nn.Module:
        """Build the network with new weights.

        Raises:
            ValueError: If it is a module of your own, or for the reasons of `create_model`.
        """
        if self.own:
            raise ValueError(
                f"{self.arch} is a module of your own, which only your code can build: "
                "torchcnn.load_model(path, net)"
            )
        flags: dict[str, Any] = {"small_input": True} if self.small_input else {}
        if self.norm == "scratch":
            flags["norm_layer"] = norm_by_hand(self.arch)
        given = {"in_channels": self.in_channels, "num_classes": self.num_classes, **flags}
        taken = self.options.keys() & {*given, "input_size", "norm_layer", "small_input"}
        if taken:
            names = ", ".join(sorted(taken))
            raise ValueError(f"{names} cannot be among the options: there is a flag")
        try:
            net = build(self.arch, self.input_size, **given, **self.options)
        except (TypeError, ArithmeticError, RuntimeError, AttributeError, IndexError) as error:
            if not self.options:
                raise
            text = ", ".join(f"{name}={value}" for name, value in self.options.items())
            raise ValueError(f"{self.arch} cannot be built with {text} ({error})") from error
        return self.attach(net)

    def attach(self, net: nn.Module) -> nn.Module:
        """Let a network carry this description, as its attribute `spec`.

        A module of your own that has such an attribute keeps it.
        """
        if isinstance(getattr(net, "spec", self), ModelSpec):
            net.__dict__["spec"] = self
        return net

    def prepare(self, image: Tensor) -> Tensor:
        """Turn a picture (c, h, w) uint8 into what the network takes, (1, c, h, w) float32."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image.float() / 255 - mean)[None] / std

    def to_json(self) -> str:
        """Return the description as the JSON that every file of weights holds."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Read what `to_json` returned.

        Raises:
            ValueError: If it is damaged.
        """
        what = "the description of the network"
        spec = read_dataclass(cls, json.loads(text), what)
        spec = replace(spec, options={k: _tupled(v) for k, v in spec.options.items()})
        numbers = (*spec.mean, *spec.std)
        if (
            not all(isinstance(name, str) for name in spec.classes)
            or not len(spec.mean) == len(spec.std) == spec.in_channels
            or not all(isinstance(x, float) and abs(x) < 1e30 for x in numbers)
            or not all(x > 0 for x in spec.std)
            or spec.norm not in ("torch", "scratch")
            or spec.resize not in RESIZES
        ):
            raise ValueError(f"{what} is damaged: its classes, mean, std, norm or resize")
        return spec


def norm_by_hand(arch: str) -> Any:
    """Return the hand-written batch norm with the settings of the network's own.

    Raises:
        ValueError: If it has none.
    """
    own = inspect.signature(find_model(arch).builder).parameters.get("norm_layer")
    if own is None or own.default is None:
        raise ValueError(f"{arch} has no batch norm for which the hand-written one could stand")
    like_keras = own.default is KerasBatchNorm2d
    return partial(BatchNorm, eps=1e-3, momentum=0.99) if like_keras else BatchNorm


def _tupled(value: Any) -> Any:
    """Return the tuples of which JSON has made lists."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
