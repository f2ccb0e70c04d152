"""A run is a folder: configuration, checkpoints, history, curves and TensorBoard events.

The history in `last.pt` is the one source. `history.csv`, `curves.png` and the events are made from
it, and made anew when a run is resumed, so that they show it without a gap.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchcnn.run.checkpoint import save_checkpoint
from torchcnn.run.drawing import drawing, save_figure
from torchcnn.run.folder import check_out, lock
from torchcnn.run.history import EpochProgress, EpochRecord, best_epoch, eval_split
from torchcnn.run.tensorboard import TensorBoard


class Run:
    """An open run folder. While it is open, no other process can open it to write.

    Args:
        path: the folder; it exists.
        about: what each checkpoint of the run repeats: "torchcnn" (the version), "model" (the
            model's specification), "config", "decided", "classes", "images", "digests" and
            "trained".
        history: the epochs that a resumed run has made; None for a new run.
        write: False for all ranks but the main one; they keep the history and write nothing.

    Raises:
        ValueError: another process writes to the folder, or a new run would overwrite another.
    """

    def __init__(
        self,
        path: Path,
        about: dict[str, Any],
        history: list[EpochRecord] | None = None,
        write: bool = True,
    ) -> None:
        self.path, self.about, self.write = path, about, write
        self.history, self.split = list(history or []), eval_split(about["config"])
        if not write:
            return
        self.unlock = lock(path, self)
        try:
            if history is None:
                check_out(path, about["config"])  # again, now that no other process can write
            _write_text(path / "config.json", json.dumps(about["config"], indent=2) + "\n")
            (path / "result.json").unlink(missing_ok=True)  # that of a run before it was resumed
            self.tensorboard = TensorBoard(path, about["config"], self.history)
        except BaseException:
            self.unlock()
            raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def best_epoch(self) -> int | None:
        return best_epoch(self.history)

    def add_epoch(self, record: EpochRecord) -> None:
        """Append an epoch to the history and to TensorBoard."""
        self.history.append(record)
        if self.write:
            self.tensorboard.add_epoch(record)

    def save(self, state: dict[str, Any], progress: EpochProgress | None = None) -> None:
        """Write `last.pt`, and after it `best.pt` if this epoch is the best so far.

        A run that dies between the two writes `best.pt` when it is resumed.

        Args:
            state: what training changes, by its name in the checkpoint.
            progress: that of an epoch that is not over.
        """
        if not self.write:
            return
        checkpoint = {
            **self.about,
            **state,
            "history": [record.to_dict() for record in self.history],
            "partial": progress and progress.to_dict(),
        }
        save_checkpoint(self.path / "last.pt", checkpoint)
        if self.history and not progress and self.best_epoch() == len(self.history):
            save_checkpoint(self.path / "best.pt", checkpoint)
        if self.history:
            _write_csv(self.path / "history.csv", self.history)

    def log_inputs(self, x: Tensor) -> None:
        """Show a grid of input images in TensorBoard."""
        if self.write:
            self.tensorboard.add_inputs(x)

    def log_graph(self, net: nn.Module, x: Tensor) -> None:
        """Show the graph of a network, which must be in eval mode, in TensorBoard."""
        if self.write:
            self.tensorboard.add_graph(net, x)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write what the test images said to `result.json`."""
        if self.write:
            _write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")

    def log_result(self, confusion: Tensor, result: dict[str, Any]) -> None:
        """Show the result and the confusion matrix in TensorBoard."""
        if not self.write:
            return
        self.tensorboard.add_result(result, self.history[result["epoch"] - 1])
        with drawing("the confusion matrix"):
            self.tensorboard.add_confusion(confusion, self.about["classes"], result["epoch"])

    def close(self) -> None:
        """Draw the curves, and let others open the run; what fails here is only warned of."""
        if not self.write:
            return
        try:
            if self.history:
                with drawing("curves.png"):
                    from torchcnn.run.plots import plot_curves

                    records = [record.to_dict() for record in self.history]
                    save_figure(plot_curves(records, self.split), self.path / "curves.png")
            with drawing("TensorBoard's events"):
                self.tensorboard.close()
        finally:
            self.unlock()


def _write_csv(path: Path, history: list[EpochRecord]) -> None:
    rows = [record.to_dict() for record in history]
    names = dict.fromkeys(name for row in rows for name in row if name != "step_losses")
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(names), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
