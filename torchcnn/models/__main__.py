"""What the networks are made of: `python -m torchcnn.models [NAME] [--graph net.svg]`."""

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
    """Show the table of all networks, or every layer of one."""

    name: str = option(
        "a network; without it, the table of all", default="", positional=True, nargs="?"
    )
    input_size: int = option("pixels a side (default: the network's)", type=cli.at_least_one,
                             default=0)  # fmt: skip
    json: bool = option("print JSON", default=False, action="store_true")
    graph: str = option("draw the network with its shapes into this .svg or .png", default="")


def all_networks() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, model in MODELS.items():
        with torch.device("meta"):
            layers = summary(create_model(name), model.input)
        rows.append({
            "name": name, "parameters": sum(row.parameters for row in layers),
            "macs": sum(row.macs for row in layers), "input": model.input,
            "layers": sum(row.macs > 0 for row in layers), "paper": model.paper, "new": model.new,
        })  # fmt: skip
    return rows


def all_networks_text(rows: list[dict[str, object]]) -> str:
    head = ["name", "parameters", "MACs", "input", "layers", "paper", "what is new"]
    lines = [
        [str(r["name"]), f"{r['parameters']:,}", f"{r['macs']:,}",
         "×".join(map(str, r["input"])), str(r["layers"]), str(r["paper"]), str(r["new"])]  # type: ignore[call-overload]
        for r in rows
    ]  # fmt: skip
    return table([head, *lines], left={0, 5, 6})


def draw(graph: torch.fx.Graph, layers: list[Layer], path: Path) -> None:
    """A box a layer, with its shape, from top to bottom, drawn by Graphviz.

    Raises:
        ValueError: another ending than .svg or .png, or no Graphviz on this machine.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"--graph draws .svg or .png, got {path}")
    try:
        import graphviz
    except ImportError as error:
        raise ValueError("--graph needs the package graphviz: pip install graphviz") from error
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
        raise ValueError("--graph needs Graphviz's program dot, which is not installed") from error
    path.write_bytes(drawing)


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        if not config.name:
            if config.graph or config.input_size:
                raise ValueError("--graph and --input-size need the name of a network")
            rows = all_networks()
            print(json.dumps(rows, indent=1) if config.json else all_networks_text(rows))
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
