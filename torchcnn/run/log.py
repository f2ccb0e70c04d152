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

from torchcnn.run.checkpoint import FORMAT, save_checkpoint
from torchcnn.run.folder import check_out, lock
from torchcnn.run.history import Record, best_epoch, held_out_name
from torchcnn.training.ema import MovingAverage
from torchcnn.training.loop import EpochResult, eval_mode


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
        self.unlock = lock(path, self)
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
        from torchcnn.run.plots import plot_confusion

        self.writer.add_figure("confusion matrix", plot_confusion(confusion, self.classes))
        for tag in ("loss", "acc"):
            self.writer.add_scalar(f"test/{tag}", result[f"test_{tag}"], result["epoch"])
        _write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")

    def close(self) -> None:
        if not self.write:
            return
        if self.history:
            from torchcnn.run.plots import plot_curves

            plot_curves(self.history, self.held_out).savefig(self.path / "curves.png", dpi=150)
        self.writer.close()
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
