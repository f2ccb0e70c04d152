"""What the commands share: a dataclass becomes flags, a device its name, an error one line."""

import argparse
import ast
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from torchcnn.names import did_you_mean

if TYPE_CHECKING:
    import torch


def option(help: str, default: Any = MISSING, choices: Sequence[str] = (), **settings: Any) -> Any:
    """A field of a command's configuration; `settings` are those of argparse's `add_argument`.

    With `group="data"` it is the first of a group of flags, which `--help` shows under this title.
    """
    if choices:
        settings |= {"type": one_of(choices), "metavar": f"{{{','.join(choices)}}}"}
    metadata = {"help": help, **settings}
    if default == {}:  # which dataclasses do not take, lest one be changed for all
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


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


def seeds(text: str) -> int | tuple[int, ...]:
    """Parse a seed, or several different ones with commas between them."""
    numbers = [int(seed(part)) for part in names()(text.strip("()"))]
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"got {text}, allowed are different seeds")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return a parser of one of a few words, whose error says which they are, or which is meant."""

    def parse_choice(text: str) -> str:
        if text not in choices:
            hint = did_you_mean(text, choices)
            allowed = f"allowed are {', '.join(choices)}" + f"; {hint}" * bool(hint)
            raise argparse.ArgumentTypeError(f"got {text}, {allowed}")
        return text

    return parse_choice


def names(allowed: Sequence[str] = ()) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of names with commas between them; any, or those that are allowed."""

    def parse_names(text: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
        for name in found:
            if not name or (allowed and name not in allowed):
                said = ", ".join(allowed) or "names"
                raise argparse.ArgumentTypeError(
                    f"got {name or text!r}, allowed are {said}, with commas between them"
                )
        return found

    return parse_names


def keyword_values(given: str | dict[str, Any]) -> dict[str, Any]:
    """Parse keyword arguments, as in "growth_rate=12 num_layers=(6,12)"; a dict is checked."""
    pairs: dict[str, Any] = {}
    for part in re.sub(r"\s*,\s*", ",", given).split() if isinstance(given, str) else ():
        name, _, text = part.partition("=")
        try:
            pairs[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pairs[part] = None
    pairs = pairs if isinstance(given, str) else given
    for name, value in pairs.items():
        if not name.isidentifier() or not isinstance(value, bool | int | float | tuple):
            got = name if value is None else f"{name}={value!r}"
            allowed = "name=value, with a number, True, False or a tuple"
            raise argparse.ArgumentTypeError(f"got {got}, allowed is {allowed}")
    return pairs


class Merged(argparse.Action):
    """Merge what the words after a flag are, each of which its `type` has read to a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, {k: v for value in values for k, v in value.items()})


def path(text: str) -> str:
    """Parse a path; a `~user` in it must exist."""
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"got {text}, there is no such user") from error
    return text


# What a RuntimeError says if its cause lies outside this package, and what helps. Such errors are
# reported in one line; all others keep their traceback.
LESS_MEMORY = "a smaller --batch-size, or --accumulate, needs less memory"
OUTSIDE = {
    "out of memory|can't allocate memory|STATUS_ALLOC_FAILED|STATUS_NOT_INITIALIZED|"
    "unable to find an engine|CUDNN_STATUS_INTERNAL_ERROR": LESS_MEMORY,
    "no kernel image is available": "this build of torch does not support this GPU",
    "busy or unavailable": "another process has the GPU to itself",
    "driver version is insufficient": "the GPU's driver is older than this build of torch",
    "driver on your system is too old": "the GPU's driver is older than this build of torch",
    "no NVIDIA driver": "--device cpu needs none",
    "shared memory|DataLoader worker": "",
    "Connection (closed|reset)|[Tt]imed out|NCCL error": "",
    r"No working C\+\+ compiler": "--compile needs one on a CPU",
}


METAVARS = {"int": "N", "float": "X"}  # what `--help` shows for a value of this type


class _Parser(argparse.ArgumentParser):
    examples = ""  # whose lines stay as they are

    def format_help(self) -> str:
        return super().format_help() + self.examples

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def parse(config_class: type, prog: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """Parse the command line into a dict of the flags that were given, by field name.

    A flag that was not given is not in the dict. What follows "Examples:" in the class's docstring
    is the end of `--help`.
    """
    about, _, examples = inspect.cleandoc(config_class.__doc__ or "").partition("\nExamples:\n")
    has_groups = any("group" in f.metadata for f in fields(config_class))
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [flags]" if has_groups else None,
        description=about,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.examples = f"\nexamples:\n{examples}\n" if examples else ""
    place: Any = parser
    known = ["--help"]
    for f in fields(config_class):
        settings = dict(f.metadata)
        if title := settings.pop("group", ""):
            place = parser.add_argument_group(title)
        if f.default is not MISSING and f.default:
            settings["help"] += f" (default: {f.default})"
        if (kind := str(getattr(f.type, "__name__", f.type))) in METAVARS:
            settings.setdefault("metavar", METAVARS[kind])
        positional = settings.pop("positional", False)
        action = place.add_argument(f.name if positional else flag(f.name), **settings)
        known += action.option_strings
    argv = sys.argv[1:] if argv is None else argv
    for word in itertools.takewhile(lambda word: word != "--", argv):
        if word.startswith("--") and (name := word.partition("=")[0]) not in known:
            hint = did_you_mean(name, known)
            parser.error(f"there is no flag {name}" + f"; {hint}" * bool(hint))
    return vars(parser.parse_args(argv))


def flag(name: str) -> str:
    """The command-line flag of a field: batch_size -> --batch-size."""
    return f"--{name.replace('_', '-')}"


def read_value(f: Field, value: Any) -> Any:
    """Convert a value as if it had been typed after its flag; tuples and dicts are given as such.

    Raises:
        ValueError: the flag does not take it; the message says what is allowed.
    """
    default_type = {"True": True, "False": False}.get if f.type is bool else str
    convert = f.metadata.get("type", default_type)
    if isinstance(value, os.PathLike):  # it may have the name of something else
        value = os.path.join(os.curdir, value)
    if isinstance(value, tuple | list):
        value = ",".join(map(str, value))
    try:
        result = convert(value if isinstance(value, dict) else str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{flag(f.name)}: {error}") from error
    if result is None:
        raise ValueError(f"{flag(f.name)}: got {value!r}, allowed are True, False")
    return result


def read_keywords(config_class: type, keywords: dict[str, Any]) -> dict[str, Any]:
    """Convert keyword arguments of Python as if they had been typed as flags; None is not given.

    Raises:
        TypeError: there is no such flag.
        ValueError: its flag does not take a value.
    """
    known = {f.name: f for f in fields(config_class)}
    keywords = {name: value for name, value in keywords.items() if value is not None}
    if unknown := keywords.keys() - known.keys():
        names = ", ".join(sorted(unknown))
        raise TypeError(f"unexpected keyword arguments: {names}; there are {', '.join(known)}")
    return {name: read_value(known[name], value) for name, value in keywords.items()}


def pick_device(name: str) -> "torch.device":
    """Return the device of this name; `auto` is cuda, else mps, else cpu.

    Raises:
        ValueError: this machine has no such device; the message says which there are.
    """
    import torch  # which takes seconds, and `--help` needs none of it

    mps = ["mps"] * torch.backends.mps.is_available()
    cuda = []
    if torch.cuda.is_available():
        cuda = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    available = ["cpu", *mps, *cuda]
    if name == "auto":
        name = [*cuda, *mps, "cpu"][0]
    if name not in available:
        there = ", ".join(available)
        raise ValueError(f"--device {name} is not on this machine; there are auto, {there}")
    return torch.device(name)


class _Console:
    """A stream whose reader may leave: what is written after that is dropped.

    Characters that the console cannot show are written as escapes.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return self._unless_broken(lambda: self.stream.write(text), len(text))

    def flush(self) -> None:
        self._unless_broken(self.stream.flush, None)

    def _unless_broken(self, action: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return action()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            return otherwise


def refuse(prog: str, texts: Sequence[str]) -> None:
    """End a command with a line for each thing that was wrong, if there is any.

    Raises:
        ValueError: the last of them; those before it are printed here.
    """
    for text in texts[:-1]:
        print(f"{prog}: {' '.join(text.split())}", file=sys.stderr)
    if texts:
        raise ValueError(texts[-1])


MENDABLE = (ValueError, OSError, FloatingPointError, RuntimeError)  # what a user can mend


def one_line(error: BaseException) -> str:
    """Say in one line what went wrong.

    Raises:
        RuntimeError: the error is a fault of this package, which keeps its traceback.
    """
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError):
        hints = [hint for cause, hint in OUTSIDE.items() if re.search(cause, text)]
        if not hints:
            raise error
        text += f"; {hints[0]}" * bool(hints[0])
    return text


@contextmanager
def one_line_errors(prog: str) -> Iterator[None]:
    """End the command with one line on stderr and exit code 2 for an error that a user can mend.

    An interrupted command ends with the interruption's `exit_code`, or with 130. If the reader of
    its output leaves, as `| head` does, it goes on.
    """
    out, err = cast(Any, (_Console(sys.stdout), _Console(sys.stderr)))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        except KeyboardInterrupt as interrupt:
            sys.exit(getattr(interrupt, "exit_code", 130))
        except MENDABLE as error:
            print(f"{prog}: {one_line(error)}", file=sys.stderr)
            sys.exit(2)
        finally:
            out.flush()
            err.flush()
