"""The command that describes the networks: `python -m torchcnn.models [NAME] [--graph net.svg]`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.figures.draw import save_figure
from torchcnn.files import table
from torchcnn.models import MODELS, create_model, find_model
from torchcnn.models.analysis import summary

PROG = "python -m torchcnn.models"


@dataclass(kw_only=True)
class Config:
    """Show a table of all networks, or of the layers of one network."""

    name: str = option(
        "the name of a network (default: a table of all)", default="", positional=True, nargs="?"
    )
    input_size: int = option(
        "height and width of the image (default: the network's)", type=cli.pixels, default=0
    )
    json: bool = option("print JSON instead of a table", default=False, action="store_true")
    graph: str = option(
        "draw the network, stage by stage with its shapes, to this .svg or .png file",
        default="",
        type=cli.path,
    )


@dataclass(frozen=True)
class Row:
    """One network in the table of all networks."""

    name: str
    parameters: int
    macs: int
    input: tuple[int, int, int]
    layers: int  # with weights
    paper: str
    new: str

    def cells(self) -> list[str]:
        """Return the network's row of the printed table."""
        numbers = [f"{self.parameters:,}", f"{self.macs:,}", "×".join(map(str, self.input))]
        return [self.name, *numbers, str(self.layers), self.paper, self.new]


def all_networks() -> list[Row]:
    """Return a row for each network, with its layers counted at its default input size."""
    rows = []
    for name, model in MODELS.items():
        with torch.device("meta"):
            net = create_model(name)
        layers = summary(net, model.input)
        row = Row(
            name=name,
            parameters=sum(layer.parameters for layer in layers),
            macs=sum(layer.macs for layer in layers),
            input=model.input,
            layers=sum(layer.macs > 0 for layer in layers),
            paper=model.paper,
            new=model.new,
        )
        rows.append(row)
    return rows


def all_networks_text(rows: list[Row]) -> str:
    head = ["name", "parameters", "MACs", "input", "layers", "paper", "description"]
    return table([head, *(row.cells() for row in rows)], left={0, 5, 6})


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        if not config.name:
            if config.graph or config.input_size:
                raise ValueError("--graph and --input-size require the name of a network")
            rows = all_networks()
            if config.json:
                print(json.dumps([asdict(row) for row in rows], indent=1))
            else:
                print(all_networks_text(rows))
            return
        channels, size, _ = find_model(config.name).input
        size = config.input_size or size
        with torch.device("meta"):
            net = create_model(config.name, size)
        if config.graph:
            if (path := Path(config.graph).expanduser()).suffix not in (".svg", ".png"):
                raise ValueError(f"--graph draws .svg or .png files, got {path}")
            from torchcnn.figures.network import plot_network

            save_figure(plot_network(net, (channels, size, size)), path)
        layers = summary(net, (channels, size, size))
        if config.json:
            print(json.dumps([asdict(row) for row in layers], indent=1, default=str))
        else:
            print(layers)


if __name__ == "__main__":
    main()
