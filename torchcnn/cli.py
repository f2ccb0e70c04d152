"""What the commands share: a dataclass becomes flags, a device its name, an error one line."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, field, fields
from typing import Any, NoReturn

import torch


def option(help: str, default: Any = MISSING, **settings: Any) -> Any:
    """A field of a command's configuration; `settings` are those of argparse's `add_argument`."""
    return field(default=default, metadata={"help": help, **settings})


def number(
    kind: type[int] | type[float], allowed: str, is_allowed: Callable[[Any], bool]
) -> Callable[[str], int | float]:
    """Return a parser of numbers whose error says what was got and what is allowed."""

    def parse_number(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not is_allowed(value):
            raise argparse.ArgumentTypeError(f"got {text}, allowed is {allowed}")
        return value

    return parse_number


at_least_one = number(int, "a whole number from 1 to 2147483647", lambda n: 1 <= n < 2**31)
pixels = number(int, "a whole number from 1 to 4096", lambda n: 1 <= n <= 4096)
positive = number(float, "a number above 0, to 1e30", lambda x: 0 < x <= 1e30)
not_negative = number(float, "a number from 0 to 1e30", lambda x: 0 <= x <= 1e30)
count = number(int, "a whole number from 0 to 2147483647", lambda n: 0 <= n < 2**31)
fraction = number(float, "a number from 0 to below 1", lambda x: 0 <= x < 1)
seed = number(int, "a whole number from 0 to below 2**63", lambda n: 0 <= n < 2**63)

# RuntimeErrors whose cause lies outside this package: they are reported in one line.
OUTSIDE = re.compile(
    "can't allocate memory|out of memory|shared memory|DataLoader worker|Connection (closed|reset)|"
    r"[Tt]imed out|NCCL error|No working C\+\+ compiler"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def parse(config_class: type, prog: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """Parse the command line into a dict of the flags that were given, by field name.

    A flag that was not given is not in the dict.
    """
    parser = _Parser(
        prog=prog,
        description=config_class.__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for f in fields(config_class):
        settings = dict(f.metadata)
        if f.default is not MISSING and f.default:
            settings["help"] += f" (default: {f.default})"
        positional = settings.pop("positional", False)
        parser.add_argument(f.name if positional else flag(f.name), **settings)
    return vars(parser.parse_args(argv))


def flag(name: str) -> str:
    """The command-line flag of a field: batch_size -> --batch-size."""
    return f"--{name.replace('_', '-')}"


def read_value(f: Field, value: Any) -> Any:
    """Convert a value as if it had been typed after its flag.

    Raises:
        ValueError: the flag does not take it; the message says what is allowed.
    """
    default_type = {"True": True, "False": False}.get if f.type is bool else str
    convert = f.metadata.get("type", default_type)
    try:
        result = convert(str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{flag(f.name)}: {error}") from error
    choices = f.metadata.get("choices", (True, False) if f.type is bool else (result,))
    if result not in choices:
        allowed = ", ".join(map(str, choices))
        raise ValueError(f"{flag(f.name)}: got {value!r}, allowed are {allowed}")
    return result


def read_keywords(config_class: type, keywords: dict[str, Any]) -> dict[str, Any]:
    """Convert keyword arguments of Python as if they had been typed as flags.

    Raises:
        TypeError: there is no such flag.
        ValueError: its flag does not take a value.
    """
    known = {f.name: f for f in fields(config_class)}
    if unknown := keywords.keys() - known.keys():
        names = ", ".join(sorted(unknown))
        raise TypeError(f"unexpected keyword arguments: {names}; there are {', '.join(known)}")
    return {name: read_value(known[name], value) for name, value in keywords.items()}


def check_stored(config_class: type, values: Any, source: object) -> None:
    """Check a stored configuration: every field is there, with a value that its flag takes.

    Raises:
        ValueError: a value is missing, unknown, or not one that its flag would take.
    """
    known = {f.name: f for f in fields(config_class)}
    if not isinstance(values, dict) or values.keys() != known.keys():
        raise ValueError(f"{source} holds no configuration that this version can read")
    for name, value in values.items():
        try:
            good = read_value(known[name], value) == value
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"{source} is damaged: its {name} is {value!r}")


def pick_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is cuda, else mps, else cpu.

    Raises:
        ValueError: this machine has no such device; the message says which there are.
    """
    cuda = []
    if torch.cuda.is_available():
        cuda = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        name = [*cuda[:1], *mps, "cpu"][0]
    available = ["cpu", *mps, *cuda]
    if name not in available:
        there = ", ".join(available)
        raise ValueError(f"--device {name} is not on this machine; there are auto, {there}")
    return torch.device(name)


@contextmanager
def one_line_errors(prog: str) -> Iterator[None]:
    """End the command with one line on stderr and exit code 2 for an error that a user can mend.

    An interrupted command ends with the interruption's `exit_code`, or with 130.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        sys.exit(getattr(interrupt, "exit_code", 130))
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and not OUTSIDE.search(text):
            raise  # a fault of this package keeps its traceback
        print(f"{prog}: {text}", file=sys.stderr)
        sys.exit(2)
