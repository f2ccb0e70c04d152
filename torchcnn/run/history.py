"""What a run remembers: a record of every epoch that is over, the progress of one that is not.

Both write, check and read themselves; on disk they are plain dicts of numbers and tensors.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchcnn.run.checkpoint import load_checkpoint


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, as the checkpoint, `history.csv` and TensorBoard show it.

    `split` says what the network was evaluated on: "val", or "test" if no images are held out.
    What a step logs beside its loss (`Step.logged`) arrives in `logged`, as the epoch's mean.
    """

    epoch: int  # from 1
    time: float  # when it ended, in seconds since 1970
    lr: float  # the learning rate of its last step
    train_loss: float
    train_acc: float
    split: str
    eval_loss: float
    eval_acc: float
    seconds: float  # of training, without the evaluation
    images_per_second: float
    step_losses: Tensor  # (steps,) float32
    logged: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as a checkpoint holds it, with `eval_acc` as `val_acc` or `test_acc`."""
        return {
            "epoch": self.epoch,
            "time": self.time,
            "lr": self.lr,
            "train_loss": self.train_loss,
            "train_acc": self.train_acc,
            f"{self.split}_loss": self.eval_loss,
            f"{self.split}_acc": self.eval_acc,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "step_losses": self.step_losses,
            **self.logged,
        }

    @classmethod
    def from_dict(cls, stored: Any, epoch: int, split: str) -> "EpochRecord":
        """Read what `to_dict` wrote of this epoch.

        Raises:
            ValueError: it is damaged.
        """
        values = dict(stored) if isinstance(stored, dict) else {}
        step_losses = values.pop("step_losses", None)
        numbers = all(isinstance(k, str) and _is_number(v) for k, v in values.items())
        plain = _is_plain(step_losses, floating=True) and step_losses.dim() == 1
        if not numbers or not plain or values.get("epoch") != epoch:
            raise ValueError(f"epoch {epoch} of its history")
        names = ("time", "lr", "train_loss", "train_acc", "seconds", "images_per_second", "epoch")
        try:
            known = {name: values.pop(name) for name in names}
            loss, acc = values.pop(f"{split}_loss"), values.pop(f"{split}_acc")
        except KeyError as error:
            raise ValueError(f"epoch {epoch} of its history") from error
        return cls(
            split=split,
            eval_loss=loss,
            eval_acc=acc,
            step_losses=step_losses,
            logged=values,
            **known,
        )

    def scalars(self) -> dict[str, dict[str, float]]:
        """The numbers of each sub-run of TensorBoard, by their tag."""
        return {
            "train": {
                "loss": self.train_loss,
                "accuracy": self.train_acc,
                "learning rate": self.lr,
                "images per second": self.images_per_second,
                **{name.replace("_", " "): value for name, value in self.logged.items()},
            },
            self.split: {"loss": self.eval_loss, "accuracy": self.eval_acc},
        }


@dataclass(frozen=True)
class EpochProgress:
    """The steps that were made in an epoch that was not over when the checkpoint was written."""

    losses: Tensor  # (steps,), the mean loss of each
    correct: Tensor  # (steps,) int64, images that were classified correctly
    images: list[int]  # how many each had
    seconds: float  # of training, so far
    rng: list[Tensor]  # the state of torch's random number generator on each rank
    cuda_rng: list[Tensor]  # and of its GPU, if it has one
    logged: dict[str, Tensor]  # (steps,) each

    def to_dict(self) -> dict[str, Any]:
        return {
            "losses": self.losses,
            "correct": self.correct,
            "images": self.images,
            "seconds": self.seconds,
            "rng": self.rng,
            "cuda_rng": self.cuda_rng,
            "logged": self.logged,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "EpochProgress":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: it is damaged.
        """
        names = ("losses", "correct", "images", "seconds", "rng", "cuda_rng")
        values: tuple[Any, ...] = tuple(stored.get(name) for name in names)
        losses, correct, images, seconds, rng, cuda_rng = values
        logged = stored.get("logged", {})
        good = (
            isinstance(images, list)
            and len(images) > 0
            and all(isinstance(n, int) and 0 < n < 2**31 for n in images)
            and all(_is_plain(x) and x.shape == (len(images),) for x in (losses, correct))
            and losses.is_floating_point()
            and correct.dtype == torch.int64
            and isinstance(seconds, float)
            and isinstance(rng, list)
            and all(_is_plain(state) and _is_rng_state(state) for state in rng)
            and isinstance(cuda_rng, list)
            and all(_is_plain(state) and state.dtype == torch.uint8 for state in cuda_rng)
            and isinstance(logged, dict)
            and all(
                isinstance(name, str) and _is_plain(x, floating=True) and x.shape == losses.shape
                for name, x in logged.items()
            )
        )
        if not good:
            raise ValueError("its unfinished epoch")
        return cls(losses, correct, images, seconds, rng, cuda_rng, logged)


def _is_number(x: Any) -> bool:
    """Whether `x` is a number that a float can hold."""
    return isinstance(x, float) or (type(x) is int and abs(x) < 2**63)


def _is_plain(x: Any, floating: bool = False) -> bool:
    """Whether `x` is a dense tensor of real numbers on the CPU."""
    dense = isinstance(x, Tensor) and x.layout == torch.strided and x.device.type == "cpu"
    return dense and not x.is_complex() and (x.is_floating_point() or not floating)


def _is_rng_state(x: Tensor) -> bool:
    try:
        torch.Generator().set_state(x)
    except (RuntimeError, TypeError):
        return False
    return True


def eval_split(config: dict[str, Any]) -> str:
    """What a run evaluates on after an epoch: validation images, or the test set if none are."""
    return "val" if config["val_fraction"] else "test"


def best_epoch(history: list[EpochRecord]) -> int | None:
    """The epoch with the highest validation accuracy; None without validation images.

    Of equal ones it is that with the lowest loss.
    """
    if not history or history[0].split == "test":
        return None
    return max(history, key=lambda record: (record.eval_acc, -record.eval_loss)).epoch


def read_history(path: Path, checkpoint: dict[str, Any], split: str) -> list[EpochRecord]:
    """The records in the checkpoint at `path`.

    Raises:
        ValueError: they are damaged.
    """
    try:
        return [
            EpochRecord.from_dict(stored, epoch, split)
            for epoch, stored in enumerate(checkpoint["history"], start=1)
        ]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_progress(path: Path, checkpoint: dict[str, Any]) -> EpochProgress | None:
    """The progress of an unfinished epoch in the checkpoint at `path`, if there is one.

    Raises:
        ValueError: it is damaged.
    """
    if checkpoint["partial"] is None:
        return None
    try:
        return EpochProgress.from_dict(checkpoint["partial"])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def check_resumable(path: Path, checkpoint: dict[str, Any]) -> None:
    """Check a run's `last.pt`, its `best.pt` and its folder before anything is written.

    Raises:
        FileNotFoundError, ValueError: `best.pt` is missing or of another run, the history is
            damaged, or the folder cannot be written to.
    """
    split = eval_split(checkpoint["config"])
    history = read_history(path / "last.pt", checkpoint, split)
    progress = read_progress(path / "last.pt", checkpoint)
    best = best_epoch(history)
    last_is_best = best == len(history) and progress is None  # then best.pt is written anew
    if best and not last_is_best:
        others = read_history(path / "best.pt", load_checkpoint(path / "best.pt"), split)
        if [r.time for r in others] != [r.time for r in history[:best]]:
            raise ValueError(f"{path / 'best.pt'} is not that of epoch {best} of this run")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written")
