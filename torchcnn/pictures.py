"""What `predict` and `explain` are given: pictures, and the network that sees them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.identity import class_name, readable
from torchcnn.files import checkpoint_file
from torchcnn.models import list_pretrained

R = TypeVar("R")


@dataclass(kw_only=True, frozen=True)
class PicturesAndNetwork:
    """The flags that both commands have."""

    files: tuple[str, ...] = option(
        "pictures, or folders of them", positional=True, nargs="+", metavar="FILE", type=cli.path
    )
    checkpoint: str = option(
        "a run's best.pt or last.pt, or the run's folder", default="", type=cli.path
    )
    arch: str = option(
        "in place of a checkpoint: a network that is in the package with its weights, which were "
        "trained on Fashion-MNIST",
        default="",
        choices=list_pretrained(),
    )

    def open_network(self) -> tuple[Any, str]:
        """Return the network in eval mode, with its attribute `spec`, and say which it is.

        Raises:
            ValueError, FileNotFoundError: not one of both flags is given, or it cannot be read.
        """
        if bool(self.checkpoint) == bool(self.arch):
            raise ValueError("either --checkpoint or --arch says which network is meant")
        if self.arch:
            from torchcnn.models import create_model

            net = create_model(self.arch, pretrained=True).eval()
            return net, f"{self.arch}, trained on Fashion-MNIST"
        from torchcnn.run.checkpoint import open_checkpoint

        net, checkpoint = open_checkpoint(self.checkpoint)
        path = checkpoint_file(Path(self.checkpoint).expanduser())
        return net, f"{path}, epoch {len(checkpoint.history)}"


def true_class(file: str, classes: Sequence[str]) -> str | None:
    """Return the class that the folder of a picture names, if its name is one: photos/cat/1.jpg."""
    folder = Path(file).expanduser().absolute().parent.name
    names = readable(folder), class_name(folder)  # a list may have classes that end in a dot
    return next((name for name in names if name in classes), None)


def try_each(things: Iterable[Any], use: Callable[[Any], R]) -> tuple[list[R], list[str]]:
    """Return `use` of all pictures that can be read, and what is wrong with the others."""
    done, wrong = [], []
    for thing in things:
        try:
            done.append(use(thing))
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    return done, wrong
