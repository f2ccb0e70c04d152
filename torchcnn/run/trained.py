"""A trained network for the commands that use one: of a run, or of this package."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.models.pretrained import list_pretrained
from torchcnn.models.registry import create_model
from torchcnn.run.checkpoint import checkpoint_file, open_checkpoint

R = TypeVar("R")


@dataclass(kw_only=True, frozen=True)
class PicturesAndNetwork:
    """What `predict` and `explain` are given: pictures, and the network that sees them."""

    files: tuple[str, ...] = option(
        "pictures, or folders of them", positional=True, nargs="+", metavar="FILE", type=cli.path
    )
    checkpoint: str = option(
        "a run's best.pt or last.pt, or the run's folder", default="", type=cli.path
    )
    arch: str = option(
        "in place of a checkpoint: a network that is in the package with its weights, which were "
        f"trained on Fashion-MNIST: {', '.join(list_pretrained())}",
        default="",
    )


class Trained(NamedTuple):
    """A network in eval mode with the attributes of `torchcnn.load_model`."""

    net: Any  # an `nn.Module`, whose attributes are not declared
    resize: str  # how pictures become squares, see `torchcnn.data.decode.read_image`
    note: str  # which network it is

    def normalize(self, image: Tensor) -> Tensor:
        """Turn a picture (c, h, w) uint8 into what the network takes, (1, c, h, w)."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.net.mean, self.net.std))
        return (image.float() / 255 - mean)[None] / std


def try_each(things: Iterable[Any], use: Callable[[Any], R]) -> tuple[list[R], list[str]]:
    """Return `use` of all pictures that can be read, and what is wrong with the others."""
    done, wrong = [], []
    for thing in things:
        try:
            done.append(use(thing))
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    return done, wrong


def open_trained(checkpoint: str, arch: str) -> Trained:
    """Open a checkpoint or the folder of a run, or a network that is in this package.

    Args:
        checkpoint: the path, or nothing.
        arch: the name of a network with weights in this package, or nothing.

    Raises:
        ValueError, FileNotFoundError: not one of both is given, or it cannot be read.
    """
    if bool(checkpoint) == bool(arch):
        raise ValueError("either --checkpoint or --arch says which network is meant")
    if arch:
        net: nn.Module = create_model(arch, pretrained=True).eval()
        return Trained(net, "squeeze", f"{arch}, trained on Fashion-MNIST")
    net, content = open_checkpoint(checkpoint)
    path = Path(checkpoint).expanduser()
    path = checkpoint_file(path) if path.is_dir() else path
    resize = content["config"].get("resize", "squeeze")
    return Trained(net, resize, f"{path}, epoch {len(content['history'])}")
