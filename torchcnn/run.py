"""A run is a folder: config, checkpoints, history, curves and TensorBoard events.

The history in `last.pt` is the one source; `history.csv`, `curves.png` and the events are drawn
from it, and drawn anew when a run is resumed, so that they show it unbroken.
"""

import csv
import json
import math
import os
import sys
import time
import warnings
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.average import MovingAverage
from torchcnn.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from torchcnn.loop import EpochResult, Step, eval_mode
from torchcnn.ranks import Ranks

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

RUNS = Path("runs")
Record = dict[str, Any]  # one epoch: numbers, and "step_losses", a tensor


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


def lock(path: Path) -> int:
    """Keep other processes from writing to a folder until the descriptor that this gives is closed.

    The system closes it when the process ends, however it does. Where there are no locks, as on
    some network file systems, nobody is kept.

    Raises:
        ValueError: another process has locked it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{path} is being written by another process") from None
    except OSError:
        pass
    return descriptor


def held_out_name(config: dict[str, Any]) -> str:
    """What is watched beside the training data: validation images, or the test set if none are."""
    return "val" if config["val_fraction"] else "test"


def best_epoch(history: list[Record], held_out: str) -> int | None:
    """The first epoch with the highest validation accuracy; None without validation data."""
    if held_out == "test" or not history:
        return None
    return max(history, key=lambda record: record["val_acc"])["epoch"]


def check_resumable(path: Path, checkpoint: dict[str, Any]) -> None:
    """Hold the history and `best.pt` of a run against each other before anything is written.

    Raises:
        FileNotFoundError, ValueError: `best.pt` is missing or of another run, or the history is
            damaged, or the folder cannot be written to.
    """
    history, held_out = checkpoint["history"], held_out_name(checkpoint["config"])
    check_history(path / "last.pt", history, held_out)
    if checkpoint["partial"] is not None:
        try:
            check_partial(checkpoint["partial"])
        except ValueError as error:
            raise ValueError(f"{path / 'last.pt'} is damaged: {error}") from error
    best = best_epoch(history, held_out)
    unwritten = best == len(history) and checkpoint["partial"] is None  # last.pt is the best
    if best and not unwritten:
        others = load_checkpoint(path / "best.pt")["history"]
        check_history(path / "best.pt", others, held_out)
        if [r["time"] for r in others] != [r["time"] for r in history[:best]]:
            raise ValueError(f"{path / 'best.pt'} is not that of epoch {best} of this run")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written")


def check_history(path: Path, history: list[Any], held_out: str) -> None:
    """Hold the history of the checkpoint at `path` against what `Run.add_epoch` makes.

    Raises:
        ValueError: it is damaged.
    """
    numbers = ("epoch", "time", "lr", "train_loss", "train_acc", f"{held_out}_loss",
               f"{held_out}_acc", "seconds", "images_per_second")  # fmt: skip
    for epoch, record in enumerate(history, start=1):
        if (
            not isinstance(record, dict)
            or not all(isinstance(record.get(key), int | float) for key in numbers)
            or not isinstance(record.get("step_losses"), Tensor)
            or record["epoch"] != epoch
        ):
            raise ValueError(f"{path} is damaged: epoch {epoch} of its history")


def pack_steps(
    steps: list[Step], seconds: float, device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """The steps of an epoch that is not over, and the state of every rank's randomness."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "losses": torch.stack([step.loss for step in steps]).cpu(),
        "hits": torch.stack([step.hits for step in steps]).cpu(),
        "images": [step.images for step in steps], "seconds": seconds,
        "rng": ranks.gather(torch.get_rng_state()),
        "cuda_rng": [] if cuda is None else ranks.gather(cuda),
    }  # fmt: skip


def check_partial(partial: dict[str, Any]) -> None:
    """Hold an unfinished epoch against what `pack_steps` makes.

    Raises:
        ValueError: it is damaged.
    """
    losses, hits, images = (partial.get(key) for key in ("losses", "hits", "images"))
    rng, cuda_rng = partial.get("rng"), partial.get("cuda_rng")
    state = torch.get_rng_state()

    def states(x: Any) -> bool:
        return isinstance(x, list) and all(
            isinstance(one, Tensor) and one.dtype == state.dtype for one in x
        )

    good = (
        isinstance(losses, Tensor) and isinstance(hits, Tensor) and isinstance(images, list)
        and losses.shape == hits.shape == (len(images),) and len(images) > 0
        and all(isinstance(n, int) and n > 0 for n in images)
        and losses.is_floating_point() and hits.dtype == torch.int64
        and isinstance(partial.get("seconds"), float)
        and states(rng) and all(one.shape == state.shape for one in partial["rng"])
        and states(cuda_rng)
    )  # fmt: skip
    if not good:
        raise ValueError("its unfinished epoch")


def unpack_steps(
    partial: dict[str, Any], device: torch.device, ranks: Ranks
) -> tuple[list[Step], float]:
    """The steps that `pack_steps` packed, and their seconds.

    Randomness goes on where it was, if there are as many ranks as there were.
    """
    losses, hits = partial["losses"].to(device), partial["hits"].to(device)
    if len(partial["rng"]) == ranks.count:
        torch.set_rng_state(partial["rng"][ranks.rank])
    if device.type == "cuda" and len(partial["cuda_rng"]) == ranks.count:
        torch.cuda.set_rng_state(partial["cuda_rng"][ranks.rank], device)
    steps = [Step(*s) for s in zip(losses, hits, partial["images"], strict=True)]
    return steps, partial["seconds"]


class Run:
    """An open run folder. `held_out` is what is watched beside the training data: val or test.

    A new one has no `history`. One that does not `write` keeps it alone, as all ranks but the first
    do. While it is open, no other process can open it to write.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        model: dict[str, Any],
        classes: list[str],
        images: int,
        history: list[Record] | None,
        write: bool = True,
    ) -> None:
        self.path, self.config, self.model = path, config, model
        self.classes, self.images = classes, images
        self.history, self.held_out, self.write = history or [], held_out_name(config), write
        if not write:
            return
        if fcntl:
            self.unlock = weakref.finalize(self, os.close, lock(path))
            os.register_at_fork(after_in_child=self.unlock)  # a loader's worker may live longer
        if history is None:
            check_out(path, config)  # again: while no other process writes
        # TensorBoard takes this module's existence as the wish not to load TensorFlow, which
        # costs seconds, prints on stderr, and is not needed to write events.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
        from torch.utils.tensorboard import SummaryWriter

        _write_text(path / "config.json", json.dumps(config, indent=2) + "\n")
        old_events = list(path.glob("events.out.tfevents.*"))
        (path / "result.json").unlink(missing_ok=True)  # of the epochs before a resumption
        self.writer = SummaryWriter(str(path))
        both = {
            kind: ["Multiline", [f"{kind}/train", f"{kind}/{self.held_out}"]]
            for kind in ("loss", "accuracy")
        }
        self.writer.add_custom_scalars({"training and held-out data in one chart": both})
        for record in self.history:
            self._log_scalars(record)
        for old in old_events:  # only now that all they hold is written anew
            old.unlink()

    def best_epoch(self) -> int | None:
        return best_epoch(self.history, self.held_out)

    def add_epoch(
        self, result: EpochResult, held_out_loss: float, held_out_acc: float, lr: float
    ) -> None:
        """Append an epoch to the history, and to all that shows it.

        Raises:
            FloatingPointError: the held-out loss is not finite: the weights are past saving.
        """
        epoch = len(self.history) + 1
        if not math.isfinite(held_out_loss):
            raise FloatingPointError(f"the {self.held_out} loss became {held_out_loss}")
        self.history.append({
            "epoch": epoch, "time": time.time(), "lr": lr,
            "train_loss": result.loss, "train_acc": result.accuracy,
            f"{self.held_out}_loss": held_out_loss, f"{self.held_out}_acc": held_out_acc,
            "seconds": result.seconds, "images_per_second": result.images / result.seconds,
            "step_losses": result.step_losses,
        })  # fmt: skip
        if self.write:
            self._log_scalars(self.history[-1])

    def save(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: MovingAverage | None = None,
        partial: dict[str, Any] | None = None,
    ) -> None:
        """Write `last.pt`, and after it `best.pt` if this epoch is the best so far.

        A run that dies between the two writes `best.pt` when it is resumed. `partial` is what
        `pack_steps` makes of an epoch that is not over.
        """
        if not self.write:
            return
        checkpoint = {
            "torchcnn": FORMAT, "model": self.model, "weights": net.state_dict(),
            "optimizer": optimizer.state_dict(), "config": self.config, "classes": self.classes,
            "images": self.images,
            "history": self.history, "partial": partial,
            "scaler": scaler.state_dict(),
            "average": average and {"weights": average.module.state_dict(),
                                    "count": average.count},
        }  # fmt: skip
        save_checkpoint(self.path / "last.pt", checkpoint)
        if self.history and not partial and self.best_epoch() == self.history[-1]["epoch"]:
            save_checkpoint(self.path / "best.pt", checkpoint)
        if self.history:
            _write_csv(self.path / "history.csv", self.history)

    def log_inputs(self, net: nn.Module, x: Tensor) -> None:
        """A grid of inputs and the network's graph, as TensorBoard shows them."""
        if not self.write:
            return
        from torchvision.utils import make_grid

        self.writer.add_image("inputs", make_grid(x[:32].cpu(), nrow=8))
        with warnings.catch_warnings(), eval_mode(net):
            warnings.simplefilter("ignore")  # add_graph traces with TorchScript, which is going
            try:
                self.writer.add_graph(net, x[:1])
            except Exception as error:
                print(f"TensorBoard gets no graph: {type(error).__name__}")

    def finish(self, confusion: Tensor, result: dict[str, Any]) -> None:
        """Write what the test set said: `result.json` and the confusion matrix."""
        if not self.write:
            return
        from torchcnn.plots import plot_confusion

        self.writer.add_figure("confusion matrix", plot_confusion(confusion, self.classes))
        for tag in ("loss", "acc"):
            self.writer.add_scalar(f"test/{tag}", result[f"test_{tag}"], result["epoch"])
        _write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")

    def close(self) -> None:
        if not self.write:
            return
        if self.history:
            from torchcnn.plots import plot_curves

            plot_curves(self.history, self.held_out).savefig(self.path / "curves.png", dpi=150)
        self.writer.close()
        if fcntl:
            self.unlock()

    def _log_scalars(self, record: Record) -> None:
        epoch, steps = record["epoch"], len(record["step_losses"])
        scalars = {
            "loss/train": record["train_loss"], "accuracy/train": record["train_acc"],
            f"loss/{self.held_out}": record[f"{self.held_out}_loss"],
            f"accuracy/{self.held_out}": record[f"{self.held_out}_acc"],
            "learning rate": record["lr"], "images per second": record["images_per_second"],
        }  # fmt: skip
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, epoch, walltime=record["time"])
        for step, loss in enumerate(record["step_losses"].tolist(), start=(epoch - 1) * steps + 1):
            self.writer.add_scalar("loss by step/train", loss, step, walltime=record["time"])
        self.writer.flush()


def _write_csv(path: Path, history: list[Record]) -> None:
    rows = [{k: v for k, v in record.items() if k != "step_losses"} for record in history]
    with open(path.with_name(path.name + ".tmp"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(path.with_name(path.name + ".tmp"), path)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
