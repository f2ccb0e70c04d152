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
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from torchcnn.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from torchcnn.loop import EpochResult, Step, eval_mode
from torchcnn.ranks import Ranks

RUNS = Path("runs")
FIRST_SECONDS = 5  # from taking a folder to its first checkpoint, for a run that lives
Record = dict[str, Any]  # one epoch: numbers, and "step_losses", a tensor


def check_out(path: Path) -> None:
    """Fail early if no new run can be written to `path`; create nothing.

    Raises:
        ValueError: it is not empty, or its place cannot be written to.
    """
    if path.is_dir() and any(not is_leftover(p) for p in path.iterdir()):
        what = "already holds a run; --resume goes on with it" if (path / "last.pt").exists() else (
            "is not empty")  # fmt: skip
        raise ValueError(f"--out {path} {what}")
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--out {path} cannot be written: {place} is no writable folder")


def is_leftover(path: Path) -> bool:
    """Whether a file is of a run that died before its first `last.pt`, some seconds ago."""
    if path.name == "config.json":
        old = path.exists() and time.time() - path.stat().st_mtime > FIRST_SECONDS
        return old and not (path.parent / "last.pt").exists()
    return path.suffix == ".tmp" or path.name.startswith("events.out.tfevents.")


def claim_folder(out: str, name: str) -> Path:
    """Make the folder of a new run: `out`, or `runs/<name>-<time>`, numbered if that is taken.

    Creating its config.json is what takes a folder, so that two runs never share one.

    Raises:
        ValueError: `out` was taken by another run in the meantime.
        OSError: it cannot be made.
    """
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = [stem, *(f"{stem}-{i}" for i in range(2, 1000))]
    for path in [Path(out)] if out else [RUNS / n for n in names]:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if out and is_leftover(path / "config.json"):  # of a run that died at once
                (path / "config.json").unlink(missing_ok=True)
            (path / "config.json").touch(exist_ok=False)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(f"cannot make the run folder {path}: {error.strerror}") from error
    raise ValueError(f"--out {out or RUNS} already holds a run")


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
    for epoch, record in enumerate(history, start=1):
        numbers = ("epoch", "time", "lr", "train_loss", "train_acc", f"{held_out}_loss",
                   f"{held_out}_acc", "seconds", "images_per_second")  # fmt: skip
        if (
            not isinstance(record, dict)
            or not all(isinstance(record.get(key), int | float) for key in numbers)
            or not isinstance(record.get("step_losses"), Tensor)
            or record["epoch"] != epoch
        ):
            raise ValueError(f"{path / 'last.pt'} is damaged: epoch {epoch} of its history")
    if checkpoint["partial"] is not None:
        try:
            check_partial(checkpoint["partial"])
        except ValueError as error:
            raise ValueError(f"{path / 'last.pt'} is damaged: {error}") from error
    best = best_epoch(history, held_out)
    unwritten = best == len(history) and checkpoint["partial"] is None  # last.pt is the best
    if best and not unwritten:
        times = [r.get("time") for r in load_checkpoint(path / "best.pt")["history"]]
        if times != [record["time"] for record in history[:best]]:
            raise ValueError(f"{path / 'best.pt'} is not that of epoch {best} of this run")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written")


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

    One that does not `write` keeps the history alone, as all ranks but the first do.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        model: dict[str, Any],
        classes: list[str],
        images: int,
        history: list[Record],
        write: bool = True,
    ) -> None:
        self.path, self.config, self.model = path, config, model
        self.classes, self.images = classes, images
        self.history, self.held_out, self.write = history, held_out_name(config), write
        if not write:
            return
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
        for record in history:
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
        average: AveragedModel | None = None,
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
                                    "count": int(average.n_averaged)},
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
