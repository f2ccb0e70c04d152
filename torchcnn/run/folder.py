"""The folder of a run: made for a new one, and locked, so that only one process writes to it."""

import json
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

from torchcnn.run.tensorboard import SUB_RUNS, event_files

RUNS = Path("runs")


def check_out(path: Path, config: dict[str, Any]) -> None:
    """Check that a new run with such a configuration can be written to `path`; create nothing.

    Raises:
        ValueError: the folder is not empty, or cannot be written.
    """
    if path.is_dir() and not is_leftover(path, config):
        if (path / "last.pt").exists():
            ways = "--resume continues it, another --out begins anew"
            raise ValueError(f"--out {path} already holds a run; {ways}")
        raise ValueError(f"--out {path} is not empty")
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--out {path} cannot be written: {place} is no writable folder")


def is_leftover(path: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is empty, or was left by a run that died before its first `last.pt`."""
    names = {p.name for p in path.iterdir()} - {"config.json.tmp"}
    if not names:
        return True
    try:
        keys = json.loads((path / "config.json").read_text()).keys()
    except (OSError, ValueError, AttributeError):  # there is none, or it is not a run's
        return False
    inside = [p for name in names & set(SUB_RUNS) for p in (path / name).iterdir()]
    others = {path / name for name in names - {"config.json", "last.pt.tmp", *SUB_RUNS}}
    return keys == config.keys() and others | set(inside) <= set(event_files(path))


def make_folder(out: str, name: str) -> Path:
    """Make the folder of a new run: `out`, or `runs/<name>-<time>`, with a number if that exists.

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
    """Lock a folder, until the returned function is called or `owner` no longer exists.

    The operating system releases the lock when the process ends, however it ends. On Windows and
    some network file systems there are no locks, and nothing is locked.

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
