"""Files that are written whole and read without trust, and tables as text."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
FORMAT = 6  # of checkpoints


@contextmanager
def whole(path: Path, sync: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`, whose file becomes `path` if all goes well.

    After an error the temporary file is gone, and what was at `path` before is still there.

    Args:
        sync: wait until the disk has it, so that a failing machine leaves the old or the new file.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, flag: str = "--out") -> None:
    """Raise a ValueError unless there is a writable folder `path`, or can be, with its parents."""
    place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {path} cannot be written: {place} is no writable folder")


def read_dataclass(cls: type[T], stored: Any, what: str) -> T:
    """Make a dataclass from what `dataclasses.asdict` and JSON or torch made of it.

    Lists become tuples where the class has tuples. Nothing else is converted.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    hints = get_type_hints(cls)
    if not isinstance(stored, dict) or stored.keys() != hints.keys():
        raise ValueError(f"{what} is damaged, or of another version")
    values = {}
    for name, hint in hints.items():
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = tuple(get_origin(kind) or kind for kind in kinds)
        value = stored[name]
        if tuple in plain and isinstance(value, list):
            value = tuple(value)
        good = isinstance(value, plain) and not (isinstance(value, bool) and bool not in plain)
        if not good:
            raise ValueError(f"{what} is damaged: its {name} is {value!r}"[:200])
        values[name] = value
    return cls(**values)


def checkpoint_file(path: Path, names: Sequence[str] = ("best.pt", "last.pt")) -> Path:
    """Return the checkpoint that a path means: the file, or the first of these in a run's folder.

    Raises:
        FileNotFoundError: the folder has none; the message names the runs that are in it.
    """
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).exists():
            return path / name
    runs = sorted({file.parent.name for file in path.glob("*/*.pt") if file.name in names})
    if not runs:
        raise FileNotFoundError(f"there is no checkpoint in {path}")
    more = f" and {len(runs) - 8} more" if len(runs) > 8 else ""
    raise FileNotFoundError(
        f"{path} is a folder of runs; give one of them: {', '.join(runs[:8])}{more}"
    )


def read_archive(path: Path, problem: str) -> Any:
    """Read what `torch.save` wrote, if it is tensors and primitives alone.

    Raises:
        ValueError: it is damaged, or holds more.
    """
    import torch

    try:
        if zipfile.is_zipfile(path):  # files of before 2020, as torchvision's, are none
            with zipfile.ZipFile(path) as archive:  # torch writes check sums but does not read them
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file provokes many kinds in torch's reader
        raise ValueError(f"{problem} ({type(error).__name__})") from error


def check_format(path: Path, content: Any) -> None:
    """Raise a ValueError unless `read_archive` read a checkpoint in the format of this version."""
    version = content.get("torchcnn") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(
            f"{path} was written by a later version of torchcnn, which can read it: its format is "
            f"{version}, and this version reads format {FORMAT}"
        )
    if not isinstance(version, int) or version != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of torchcnn (format {FORMAT})")


# --- text for the terminal and for pictures -----------------------------------------------------


def table(rows: list[list[str]], left: set[int]) -> str:
    """Align columns, those of `left` to the left and the others, numbers, to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def plural(n: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def printable(text: str) -> str:
    """Replace what no font has: bytes of a file name that are no text, control characters."""
    whole = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in whole)
