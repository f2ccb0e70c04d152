"""Classify pictures by a trained network: `python -m torchcnn.predict --checkpoint RUN FILES…`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.decode import read_image
from torchcnn.run.checkpoint import open_checkpoint
from torchcnn.run.drawing import drawing, save_figure

PROG = "python -m torchcnn.predict"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Classify pictures by a trained network, and print the classes with their probabilities."""

    files: tuple[str, ...] = option(
        "the pictures", positional=True, nargs="+", metavar="FILE", type=cli.path
    )
    checkpoint: str = option(
        "a run's best.pt or last.pt, or the run's folder", required=True, type=cli.path
    )
    top: int = option(
        "how many classes to print for each picture", default=3, type=cli.at_least_one
    )
    json: bool = option("print JSON", default=False, action="store_true")
    out: str = option(
        "draw the pictures with their classes into this .png", default="", type=cli.path
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        predict(Config(**cli.parse(Config, PROG, argv)))


def predict(config: Config) -> None:
    if config.out and Path(config.out).suffix != ".png":
        raise ValueError(f"--out draws a .png, got {config.out}")
    net, checkpoint = open_checkpoint(config.checkpoint)
    channels, size = checkpoint["model"]["in_channels"], checkpoint["model"]["input_size"]
    resize = checkpoint["config"].get("resize", "squeeze")
    images = [read_image(path, channels, size, resize) for path in config.files]
    with torch.no_grad():  # one by one, so that a picture's numbers do not depend on others
        probabilities = torch.cat([net(x[None].float() / 255).softmax(1) for x in images])
    values, classes = probabilities.topk(min(config.top, probabilities.shape[1]))
    named = [
        [(checkpoint["classes"][i], p) for i, p in zip(row, ps, strict=True)]
        for row, ps in zip(classes.tolist(), values.tolist(), strict=True)
    ]
    if config.json:
        answers = [
            {"file": file, "top": [{"class": name, "probability": p} for name, p in answer]}
            for file, answer in zip(config.files, named, strict=True)
        ]
        print(json.dumps(answers, indent=1))
    else:
        for file, answer in zip(config.files, named, strict=True):
            print(f"{file}: " + ", ".join(f"{name} {p:.4f}" for name, p in answer))
    if config.out:
        out = Path(config.out).expanduser()
        titles = ["\n".join(f"{name} {p:.0%}" for name, p in answer) for answer in named]
        with drawing(str(out)):
            from torchcnn.run.plots import plot_images

            save_figure(plot_images(images, titles), out)


if __name__ == "__main__":
    main()
