"""A run is a folder: configuration, checkpoints, history, curves and TensorBoard events.

The history in `last.pt` is the one source. `history.csv`, `curves.png` and the events are made from
it, and made anew when a run is resumed, so that they show it without a gap. While a process writes
to a folder, it is locked.
"""

import csv
import json
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchcnn.figures.draw import drawing, save_figure
from torchcnn.files import check_writable, whole
from torchcnn.run.checkpoint import (
    Checkpoint,
    EpochRecord,
    best_epoch,
    save_checkpoint,
)
from torchcnn.run.tensorboard import SUB_RUNS, TensorBoard, add_png, event_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

RUNS = Path("runs")


class Run:
    """An open run folder. While it is open, no other process can open it to write.

    Args:
        path: the folder; it exists.
        config: the flags of the run, as `config.json` shows them.
        history: the epochs that a resumed run has made; None for a new run.
        split: what is evaluated after each epoch, "val" or "test".
        write: False for all ranks but the main one; they keep the history and write nothing.

    Raises:
        ValueError: another process writes to the folder, or a new run would overwrite another.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        split: str,
        history: list[EpochRecord] | None = None,
        write: bool = True,
    ) -> None:
        self.path, self.config, self.write = path, config, write
        self.history = list(history or [])
        self.result: dict[str, Any] = {}
        if not write:
            return
        self.unlock = lock(path, self)
        try:
            if history is None:
                check_out(path)  # again, now that no other process can write
            write_json(path / "config.json", config)
            (path / "result.json").unlink(missing_ok=True)  # that of a run before it was resumed
            self.tensorboard = TensorBoard(path, config, split, self.history)
        except BaseException:
            self.unlock()
            raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        """Draw the curves, and let others open the run; what fails here is only warned of."""
        if not self.write:
            return
        try:
            if self.history:
                with drawing("curves.png"):
                    save_figure(plot_history(self.history, self.title()), self.path / "curves.png")
            with drawing("TensorBoard's events"):
                self.tensorboard.close()
        finally:
            self.unlock()

    def title(self) -> str:
        """Return the network, the data and, if the run has ended, its accuracy."""
        scores = {"test": self.result.get("test_acc"), "validation": self.result.get("val_acc")}
        said = [f"{part} accuracy {x:.4f}" for part, x in scores.items() if x is not None]
        return ", ".join([f"{self.config['arch']} on {Path(self.config['data']).name}", *said[:1]])

    def best_epoch(self) -> int | None:
        return best_epoch(self.history)

    def add_epoch(self, record: EpochRecord) -> None:
        """Append an epoch to the history and to TensorBoard."""
        self.history.append(record)
        if self.write:
            self.tensorboard.add_epoch(record)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write `last.pt`, and after it `best.pt` if this epoch is the best so far.

        A run that dies between the two writes `best.pt` when it is resumed.
        """
        if not self.write:
            return
        save_checkpoint(self.path / "last.pt", checkpoint)
        if self.history and not checkpoint.progress and self.best_epoch() == len(self.history):
            save_checkpoint(self.path / "best.pt", checkpoint)
        if self.history:
            rows = [record.row() for record in self.history]
            names = dict.fromkeys(name for row in rows for name in row)
            with (
                whole(self.path / "history.csv") as temporary,
                open(temporary, "w", newline="") as file,
            ):
                writer = csv.DictWriter(file, list(names))
                writer.writeheader()
                writer.writerows(rows)

    def log_inputs(self, images: list[Tensor], titles: list[str]) -> None:
        """Show images (c, h, w) uint8 of the first step in `inputs.png` and in TensorBoard."""
        if not self.write:
            return
        with drawing("inputs.png"):
            from torchcnn.figures.results import plot_inputs

            save_figure(plot_inputs(images, titles), self.path / "inputs.png")
            add_png(self.tensorboard.run, "inputs", (self.path / "inputs.png").read_bytes())

    def log_graph(self, net: nn.Module, x: Tensor) -> None:
        """Show the graph of a network, which must be in eval mode, in TensorBoard."""
        if self.write:
            self.tensorboard.add_graph(net, x)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write what the test images said to `result.json`."""
        self.result = result
        if self.write:
            write_json(self.path / "result.json", result)

    def log_result(self, confusion: Tensor, classes: list[str], result: dict[str, Any]) -> None:
        """Show the result and the confusion matrix in TensorBoard."""
        if not self.write:
            return
        self.tensorboard.add_result(result, self.history[result["epoch"] - 1])
        with drawing("the confusion matrix"):
            self.tensorboard.add_confusion(confusion, classes, result["epoch"])


def plot_history(history: list[EpochRecord], title: str) -> "Figure":
    """Plot loss and accuracy by epoch."""
    from torchcnn.figures.results import plot_curves

    rows = [record.row() for record in history]
    return plot_curves(rows, history[0].split, title, best_epoch(history))


def write_json(path: Path, content: dict[str, Any]) -> None:
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


# --- the folder ---------------------------------------------------------------------------------


def check_out(path: Path) -> None:
    """Raise a ValueError unless a new run can be written to `path`; create nothing."""
    if path.is_dir() and not is_leftover(path):
        if (path / "last.pt").exists():
            ways = "--resume continues it, another --out begins anew"
            raise ValueError(f"--out {path} already holds a run; {ways}")
        raise ValueError(f"--out {path} is not empty")
    check_writable(path)


def is_leftover(path: Path) -> bool:
    """Whether a folder is empty, or was left by a run that died before its first `last.pt`."""
    own = {path / ".tmp-config.json"}
    try:
        config = json.loads((path / "config.json").read_text())
        if {"arch", "data", "seed"} <= config.keys():
            own |= {path / "config.json", path / ".tmp-last.pt", *event_files(path)}
    except (OSError, ValueError, AttributeError):  # there is none, or it is not a run's
        pass
    files = {p for p in path.rglob("*") if not p.is_dir()}
    folders = {p for p in path.rglob("*") if p.is_dir()}
    return folders <= {path / name for name in SUB_RUNS} and files <= own


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
