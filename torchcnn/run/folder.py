"""The folder of a run: a new one, or one of its own, and written by one process at a time."""

import json
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

RUNS = Path("runs")


def check_out(path: Path, config: dict[str, Any]) -> None:
    """Fail early if no new run of this kind can be written to `path`; create nothing.

    Raises:
        ValueError: it is not empty, or its place cannot be written to.
    """
    if path.is_dir() and not is_leftover(path, config):
        what = "already holds a run; --resume goes on with it" if (path / "last.pt").exists() else (
            "is not empty")  # fmt: skip
        raise ValueError(f"--out {path} {what}")
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--out {path} cannot be written: {place} is no writable folder")


def is_leftover(path: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is empty, or of a run that died before its first `last.pt`."""
    names = {p.name for p in path.iterdir()} - {"config.json.tmp"}
    if not names:
        return True
    others = names - {"config.json", "last.pt.tmp"}
    try:
        keys = json.loads((path / "config.json").read_text()).keys()
    except (OSError, ValueError, AttributeError):  # none, or not one of ours
        return False
    return keys == config.keys() and all(name.startswith("events.out.") for name in others)


def make_folder(out: str, name: str) -> Path:
    """The folder of a new run: `out`, or `runs/<name>-<time>`, numbered if that is taken.

    Raises:
        OSError: it cannot be made.
    """
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = [stem, *(f"{stem}-{i}" for i in range(2, 1000))]
    for path in [Path(out)] if out else [RUNS / n for n in names]:
        try:
            path.mkdir(parents=True, exist_ok=bool(out))
            return path
        except OSError as error:
            if path.is_dir():
                continue
            raise OSError(f"cannot make the run folder {path}: {error.strerror}") from error
    raise OSError(f"cannot make a new run folder in {RUNS}")


def lock(path: Path, owner: object) -> Callable[[], object]:
    """Keep others from writing to a folder, until what this gives is called or `owner` is gone.

    The system lets go when the process ends, however it does. Where there are no locks, as on
    Windows and some network file systems, nobody is kept.

    Raises:
        ValueError: another process has locked it.
    """
    if fcntl is None:
        return lambda: None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{path} is being written by another process") from None
    except OSError:
        pass
    unlock = weakref.finalize(owner, os.close, descriptor)
    os.register_at_fork(after_in_child=unlock)  # a loader's worker may outlive this process
    return unlock
