"""The list of the commands: `python -m torchcnn`, or `torchcnn COMMAND` for one of them."""

import importlib
import sys
from collections.abc import Sequence

import torchcnn
from torchcnn.files import table
from torchcnn.names import did_you_mean

COMMANDS = {
    "train": "train a network on images",
    "evaluate": "evaluate a trained network on test images",
    "predict": "classify pictures",
    "explain": "show what a network looks at",
    "compare": "show finished runs side by side",
    "export": "write a trained network for other programs",
    "models": "show the table of all networks, or the layers of one",
    "benchmark": "compare the speed of training with other ways",
}


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name == "--version":
        print(f"torchcnn {torchcnn.__version__}")
    elif name in ("--help", "-h"):
        rows = [[f"  python -m torchcnn.{command}", what] for command, what in COMMANDS.items()]
        print(f"torchcnn {torchcnn.__version__}: the classic CNNs. The commands, each with --help:")
        print("\n" + table(rows, left={0, 1}))
    elif name in COMMANDS:
        places = {"models": "models.__main__", "benchmark": "benchmark.__main__"}
        importlib.import_module(f"torchcnn.{places.get(name, name)}").main(argv[1:])
    else:
        allowed = f"allowed is {', '.join(COMMANDS)}, --help or --version"
        hint = did_you_mean(name, [*COMMANDS, "--help", "--version"]) or allowed
        print(f"torchcnn: there is no command {name}; {hint}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
