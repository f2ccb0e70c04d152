"""The command that describes the networks: `python -m torchcnn.models [NAME] [--graph net.svg]`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.files import table
from torchcnn.models import MODELS, find_model

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
    json: bool = option(
        "print JSON instead of a table; a receptive field of null is the whole image",
        default=False,
        action="store_true",
    )
    graph: str = option(
        "draw the network, stage by stage with its shapes, to this .svg or .png file",
        default="",
        type=cli.path,
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        if config.name:
            find_model(config.name)  # a misspelled name need not wait for PyTorch
            show_layers(config)
        elif config.graph or config.input_size:
            raise ValueError("--graph and --input-size require the name of a network")
        else:
            show_all(config.json)


def show_all(as_json: bool) -> None:
    """Print what the registry knows of all networks, without building one."""
    names = ("name", "parameters", "macs", "input", "layers", "paper", "new")
    rows = [{name: getattr(model, name) for name in names} for model in MODELS.values()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return "×".join(map(str, value))
        return f"{value:,}" if isinstance(value, int) else value

    head = ["name", "parameters", "MACs", "input", "layers", "paper", "description"]
    print(table([head, *([*map(text, row.values())] for row in rows)], left={0, 5, 6}))


def show_layers(config: Config) -> None:
    """Print the layers of one network, and draw it if asked to."""
    path = Path(config.graph).expanduser()
    if config.graph and path.suffix not in (".svg", ".png"):
        raise ValueError(f"--graph draws .svg or .png files, got {path}")
    from torchcnn.models.analysis import summary
    from torchcnn.models.build import build_without_weights

    channels, size, _ = find_model(config.name).input
    size = config.input_size or size
    net = build_without_weights(config.name, size)
    if config.graph:
        from torchcnn.figures.draw import save_figure
        from torchcnn.figures.network import plot_network

        save_figure(plot_network(net, (channels, size, size)), path)
    layers = summary(net, (channels, size, size))
    if config.json:
        text = json.dumps([asdict(row) for row in layers], indent=1)
        print(text.replace("Infinity", "null"))  # which JSON does not have
    else:
        print(layers)


if __name__ == "__main__":
    main()
