"""What the commands share: a dataclass becomes flags, a device its name, an error one line."""

import argparse
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, field, fields
from typing import Any, NoReturn

import torch


def option(help: str, default: Any = MISSING, **settings: Any) -> Any:
    """A field of a command's configuration, with what argparse's `add_argument` takes."""
    return field(default=default, metadata={"help": help, **settings})


def number(
    kind: type[int] | type[float], allowed: str, is_allowed: Callable[[Any], bool]
) -> Callable[[str], int | float]:
    """A reader of numbers whose error says what was got and what is allowed."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not is_allowed(value):
            raise argparse.ArgumentTypeError(f"got {text}, allowed is {allowed}")
        return value

    return read


at_least_one = number(int, "a whole number from 1 to 2147483647", lambda n: 1 <= n < 2**31)
pixels = number(int, "a whole number from 1 to 4096", lambda n: 1 <= n <= 4096)
positive = number(float, "a number above 0, to 1e30", lambda x: 0 < x <= 1e30)
not_negative = number(float, "a number from 0 to 1e30", lambda x: 0 <= x <= 1e30)
count = number(int, "a whole number from 0 to 2147483647", lambda n: 0 <= n < 2**31)
fraction = number(float, "a number from 0 to below 1", lambda x: 0 <= x < 1)
seed = number(int, "a whole number from 0 to below 2**63", lambda n: 0 <= n < 2**63)


OUTSIDE = re.compile(  # what a RuntimeError says that is not a fault of this package
    "can't allocate memory|out of memory|shared memory|DataLoader worker|Connection (closed|reset)|"
    r"[Tt]imed out|NCCL error|No working C\+\+ compiler"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def parse(config_class: type, prog: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """The flags that were given, by field name; what was not given is not in the dict."""
    parser = _Parser(prog=prog, description=config_class.__doc__, allow_abbrev=False,
                     argument_default=argparse.SUPPRESS)  # fmt: skip
    for f in fields(config_class):
        settings = dict(f.metadata)
        if f.default is not MISSING and f.default:
            settings["help"] += f" (default: {f.default})"
        positional = settings.pop("positional", False)
        name = f.name if positional else f"--{f.name.replace('_', '-')}"
        parser.add_argument(name, **settings)
    return vars(parser.parse_args(argv))


def check(config_class: type, values: Any, source: object) -> None:
    """Hold a stored configuration against the flags, as if each value had been typed.

    Raises:
        ValueError: a value is missing, unknown, or not one that its flag would take.
    """
    known = {f.name: f for f in fields(config_class)}
    if not isinstance(values, dict) or values.keys() != known.keys():
        raise ValueError(f"{source} holds no configuration that this version can read")
    for name, value in values.items():
        settings, kind = known[name].metadata, known[name].type
        read = settings.get("type", {"True": True, "False": False}.get if kind is bool else str)
        try:
            good = read(str(value)) == value
        except (ValueError, argparse.ArgumentTypeError):
            good = False
        if not good or value not in settings.get("choices", [value]):
            raise ValueError(f"{source} is damaged: its {name} is {value!r}")


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu; any other name must be there.

    Raises:
        ValueError: no such device on this machine; the message says which there are.
    """
    cuda = (
        [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        name = (["cuda"] * bool(cuda) + mps + ["cpu"])[0]
    here = ["cpu", *mps, *(["cuda"] * bool(cuda)), *cuda]
    if name not in here:
        raise ValueError(
            f"--device {name} is not on this machine; there are auto, {', '.join(here)}"
        )
    return torch.device(name)


class Stopped(Exception):
    """A signal asked for the end, and the work is saved; the exit code tells which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


class StopRequest:
    """The first SIGINT or SIGTERM is only noted, so that a step can end; a second acts at once.

    But not with `patience`: what torchrun started may get its signal twice, from outside and from
    torchrun, which kills by itself what takes too long.
    """

    def __init__(self, patience: bool) -> None:
        self.signum, self.patience = 0, patience

    def __enter__(self) -> "StopRequest":
        here = threading.current_thread() is threading.main_thread()  # elsewhere none can be caught
        signals = (signal.SIGINT, signal.SIGTERM) if here else ()
        self.before = {s: signal.signal(s, self._note) for s in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            signal.signal(s, signal.SIG_IGN if self.patience and self.signum else handler)

    def _note(self, signum: int, _: object) -> None:
        self.signum = signum
        if not self.patience:
            self.__exit__()


@contextmanager
def one_line_errors(prog: str) -> Iterator[None]:
    """What a user can mend ends the command with one line on stderr and exit code 2."""
    try:
        yield
    except Stopped as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and not OUTSIDE.search(text):
            raise  # ours to mend
        print(f"{prog}: {text}", file=sys.stderr)
        sys.exit(2)
