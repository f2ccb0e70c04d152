"""The command that describes the networks: `python -m torchcnn.models [NAME] [--graph net.svg]`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.fx

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.models import MODELS, create_model, find_model
from torchcnn.models.analysis import Layer, summary, trace
from torchcnn.text import table

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
        "draw the network with its shapes to this .svg or .png file", default="", type=cli.path
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


def draw(graph: torch.fx.Graph, layers: list[Layer], path: Path) -> None:
    """Draw a graph from top to bottom with Graphviz, each layer as a box with its output shape.

    Raises:
        ValueError: If the file name does not end in .svg or .png, or Graphviz is not installed.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"--graph draws .svg or .png files, got {path}")
    try:
        import graphviz
    except ImportError as error:
        raise ValueError("--graph requires the package graphviz: pip install graphviz") from error
    by_name = {row.name: row for row in layers}
    dot = graphviz.Digraph(node_attr={"shape": "box", "fontname": "Helvetica", "fontsize": "11"})
    for node in graph.nodes:
        row = by_name.get(str(node.target)) if node.op == "call_module" else None
        label = f"{row.name}\n{row.kind}" if row else node.name
        shape = "×".join(map(str, node.meta["shape"]))
        dot.node(node.name, f"{label}\n{shape}", style="" if row else "rounded")
        for source in node.all_input_nodes:
            dot.edge(source.name, node.name)
    try:
        drawing = dot.pipe(format=path.suffix[1:])
    except graphviz.ExecutableNotFound as error:
        raise ValueError("--graph requires Graphviz's dot, which is not installed") from error
    path.write_bytes(drawing)


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
            graph, layers = trace(create_model(config.name, size), (channels, size, size))
        if config.graph:
            draw(graph, layers, Path(config.graph))
        if config.json:
            print(json.dumps([asdict(row) for row in layers], indent=1, default=str))
        else:
            print(layers)


if __name__ == "__main__":
    main()
