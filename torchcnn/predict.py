"""Classify pictures by a trained network: `python -m torchcnn.predict --checkpoint RUN FILES…`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.figures.draw import drawing, save_figure
from torchcnn.pictures import PicturesAndNetwork, true_class, try_each

if TYPE_CHECKING:
    from torch import Tensor

PROG = "python -m torchcnn.predict"


@dataclass(kw_only=True, frozen=True)
class Config(PicturesAndNetwork):
    """Classify pictures by a trained network, and print the classes with their probabilities."""

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
    image: "Tensor"  # (c, size, size) uint8
    top: list[dict[str, Any]]  # the "class" and its "probability", as `--json` prints them


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        predict(Config(**cli.parse(Config, PROG, argv)))


def predict(config: Config) -> None:
    """Classify all pictures that can be read; those that cannot are an error at the end."""
    if config.out and Path(config.out).suffix != ".png":
        raise ValueError(f"--out draws a .png, got {config.out}")
    from torchcnn.data.decode import find_pictures

    net, note = config.open_network()
    files = find_pictures(config.files)
    answers, unread = try_each(files, lambda file: classify(net, file, config.top))
    if config.json:
        print(json.dumps([{"file": a.file, "top": a.top} for a in answers], indent=1))
    else:
        for answer in answers:
            top = [f"{found['class']} {found['probability']:.4f}" for found in answer.top]
            print(f"{answer.file}: {', '.join(top)}")
    if config.out and answers:
        draw(answers, net.spec.classes, Path(config.out).expanduser())
    cli.refuse(PROG, unread)
    print(f"by {note}", file=sys.stderr)


def classify(net: Any, file: str, top: int) -> Answer:
    """Classify a picture by itself, so that its numbers do not depend on others.

    Raises:
        ValueError, FileNotFoundError: it cannot be read.
    """
    import torch

    from torchcnn.data.decode import read_image

    spec, path = net.spec, Path(file).expanduser()
    image = read_image(path, spec.in_channels, spec.input_size, spec.resize)
    with torch.no_grad():
        probabilities = net(spec.prepare(image)).softmax(1)[0]
    values, classes = probabilities.topk(min(top, len(probabilities)))
    pairs = zip(classes.tolist(), values.tolist(), strict=True)
    return Answer(file, image, [{"class": spec.classes[i], "probability": p} for i, p in pairs])


def draw(answers: Sequence[Answer], classes: Sequence[str], out: Path) -> None:
    """Draw the pictures, each above its classes, the true one if its folder names it, its name."""
    with drawing(str(out)):
        from torchcnn.figures.tiles import Tile, plot_tiles

        tiles = []
        for answer in answers:
            lines = [f"{found['class']} {found['probability']:.0%}" for found in answer.top]
            truth = true_class(answer.file, classes)
            wrong = truth is not None and truth != answer.top[0]["class"]
            if truth is not None:
                lines[0] = f"{'✗' if wrong else '✓'} {lines[0]}"
            lines += [f"true: {truth}"] * wrong + [Path(answer.file).name]
            tiles.append(Tile(answer.image, lines, wrong))
        save_figure(plot_tiles(tiles), out)


if __name__ == "__main__":
    main()
