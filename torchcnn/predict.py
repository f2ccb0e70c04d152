"""Classify pictures by a trained network: `python -m torchcnn.predict --checkpoint RUN FILES…`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.decode import extensions, read_image
from torchcnn.models import create_model, list_pretrained
from torchcnn.run.checkpoint import checkpoint_file, open_checkpoint
from torchcnn.run.drawing import drawing, save_figure

PROG = "python -m torchcnn.predict"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Classify pictures by a trained network, and print the classes with their probabilities."""

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
    top: int = option(
        "how many classes to print for each picture", default=3, type=cli.at_least_one
    )
    json: bool = option("print JSON", default=False, action="store_true")
    out: str = option(
        "draw the pictures with their classes into this .png", default="", type=cli.path
    )


class Answer(NamedTuple):
    """The most probable classes of a picture."""

    file: str
    image: Tensor  # (c, size, size) uint8
    top: list[tuple[str, float]]  # classes with their probabilities


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        predict(Config(**cli.parse(Config, PROG, argv)))


def predict(config: Config) -> None:
    """Classify all pictures that can be read; those that cannot are an error at the end."""
    if config.out and Path(config.out).suffix != ".png":
        raise ValueError(f"--out draws a .png, got {config.out}")
    net, resize, note = open_network(config)
    answers, unread = [], []
    for file in find_pictures(config.files):
        try:
            answers.append(classify(net, file, resize, config.top))
        except (ValueError, OSError) as error:
            unread.append(str(error))
    if config.json:
        print(json.dumps([as_json(answer) for answer in answers], indent=1))
    else:
        for answer in answers:
            print(f"{answer.file}: " + ", ".join(f"{name} {p:.4f}" for name, p in answer.top))
    if config.out and answers:
        draw(answers, Path(config.out).expanduser())
    if unread:
        for text in unread[:-1]:
            print(f"{PROG}: {text}", file=sys.stderr)
        raise ValueError(unread[-1])
    print(f"by {note}", file=sys.stderr)


def open_network(config: Config) -> tuple[nn.Module, str, str]:
    """Return the network, how pictures become squares, and which network it is.

    Raises:
        ValueError, FileNotFoundError: the flags do not name one, or it cannot be read.
    """
    if bool(config.checkpoint) == bool(config.arch):
        raise ValueError("either --checkpoint or --arch says which network is meant")
    if config.arch:
        net = create_model(config.arch, pretrained=True).eval()
        return net, "squeeze", f"{config.arch}, trained on Fashion-MNIST"
    net, checkpoint = open_checkpoint(config.checkpoint)
    path = Path(config.checkpoint).expanduser()
    path = checkpoint_file(path) if path.is_dir() else path
    note = f"{path}, epoch {len(checkpoint['history'])}"
    return net, checkpoint["config"].get("resize", "squeeze"), note


def find_pictures(names: Sequence[str]) -> list[str]:
    """Replace folders by the pictures in them and below, in the order of their names.

    Raises:
        FileNotFoundError: a folder has none.
    """
    files: list[str] = []
    for name in names:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            files.append(name)
            continue
        inside = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in extensions()]
        inside = [p for p in inside if p.is_file() and not p.name.startswith(".")]
        if not inside:
            raise FileNotFoundError(f"there are no pictures in {name}")
        files += map(str, inside)
    return files


@torch.no_grad()
def classify(net: Any, file: str, resize: str, top: int) -> Answer:
    """Classify a picture by itself, so that its numbers do not depend on others.

    Raises:
        ValueError, FileNotFoundError: it cannot be read.
    """
    image = read_image(Path(file).expanduser(), len(net.mean), net.input_size, resize)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (net.mean, net.std))
    probabilities = net((image.float() / 255 - mean)[None] / std).softmax(1)[0]
    values, classes = probabilities.topk(min(top, len(probabilities)))
    named = [net.classes[i] for i in classes.tolist()]
    return Answer(file, image, list(zip(named, values.tolist(), strict=True)))


def as_json(answer: Answer) -> dict[str, Any]:
    """Return a picture's answer as `--json` prints it."""
    return {
        "file": answer.file,
        "top": [{"class": name, "probability": p} for name, p in answer.top],
    }


def draw(answers: Sequence[Answer], out: Path) -> None:
    """Draw the pictures, each under its file's name and its classes."""
    titles = [
        "\n".join([Path(answer.file).name, *(f"{name} {p:.0%}" for name, p in answer.top)])
        for answer in answers
    ]
    with drawing(str(out)):
        from torchcnn.run.plots import plot_images

        save_figure(plot_images([answer.image for answer in answers], titles), out)


if __name__ == "__main__":
    main()
