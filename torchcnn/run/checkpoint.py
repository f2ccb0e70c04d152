"""Checkpoints: what a run remembers, written whole or not at all, read and checked once.

On the disk a checkpoint is a dict of tensors and primitives. `last.pt` is that of the last epoch,
or of a step in an epoch that is not over; `best.pt` is that of the best epoch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.files import (
    FORMAT,
    check_format,
    checkpoint_file,
    read_archive,
    read_dataclass,
    whole,
)
from torchcnn.models.spec import ModelSpec


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
    step_losses: Tensor = field(repr=False)  # (steps,) float32
    logged: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """The numbers by their names in `history.csv`: `eval_acc` is `val_acc` or `test_acc`."""
        values = asdict(self)
        del values["step_losses"]
        split, logged = values.pop("split"), values.pop("logged")
        return {k.replace("eval", split): v for k, v in values.items()} | logged

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


@dataclass(frozen=True)
class State:
    """What training changes."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None  # the moving average of the weights, which is what is evaluated


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to use a trained network, and to go on with its training."""

    spec: ModelSpec
    config: dict[str, Any]  # the flags of the run, see `torchcnn.training.config.Config`
    sources: dict[str, str]  # where their values come from, see `torchcnn.training.plan.Plan`
    images: int  # how many there were to train on
    digests: dict[str, str]  # of the pictures of each part, if they lie in a folder
    trained: Tensor | None  # the numbers of those trained on, see `torchcnn.data.identity`
    history: list[EpochRecord]
    progress: EpochProgress | None
    state: State

    @property
    def trained_weights(self) -> dict[str, Tensor]:
        """The weights that were evaluated: the moving average, if there is one."""
        average = self.state.average
        return average["weights"] if average else self.state.weights

    def load_into(self, net: nn.Module) -> nn.Module:
        """Load the weights into a network, which then carries the description of it.

        Raises:
            ValueError: they do not fit.
        """
        try:
            net.load_state_dict(self.trained_weights)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"the weights are not those of {self.spec.arch}: {error}") from error
        return self.spec.attach(net)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    content = vars(checkpoint) | vars(checkpoint.state)
    del content["state"]
    content |= {"torchcnn": FORMAT, "spec": checkpoint.spec.to_json()}
    content["history"] = [vars(record) for record in checkpoint.history]
    content["progress"] = checkpoint.progress and vars(checkpoint.progress)
    try:
        with whole(path, sync=True) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        why = error if isinstance(error, OSError) else f"the disk may be full ({error})"
        raise OSError(f"cannot write {path}: {why}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a checkpoint of torchcnn, or one of a later version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    content = read_archive(path, f"{path} is damaged, or not a checkpoint")
    check_format(path, content)
    try:
        state = {name: content.pop(name) for name in State.__dataclass_fields__}
        spec = ModelSpec.from_json(content.pop("spec"))
        history = [
            read_dataclass(EpochRecord, record, f"epoch {i} of its history")
            for i, record in enumerate(content.pop("history"), start=1)
        ]
        check_history(history)
        progress = content.pop("progress")
        if progress is not None:
            progress = read_dataclass(EpochProgress, progress, "its unfinished epoch")
            check_progress(progress)
        del content["torchcnn"]
        content |= {"spec": spec, "history": history, "progress": progress}
        content["state"] = read_dataclass(State, state, "its state")
        return read_dataclass(Checkpoint, content, "its content")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged checkpoint: {error}") from error


def check_history(history: Sequence[EpochRecord]) -> None:
    """Raise a ValueError unless records are those of a run's epochs, from the first on."""
    for i, record in enumerate(history, start=1):
        logged = record.logged.items()
        if (
            record.epoch != i
            or record.split not in ("val", "test")
            or record.split != history[0].split
            or not is_series(record.step_losses)
            or not all(isinstance(k, str) and isinstance(v, float) for k, v in logged)
        ):
            raise ValueError(f"epoch {i} of its history is damaged")


def check_progress(progress: EpochProgress) -> None:
    """Raise a ValueError unless an unfinished epoch has all numbers of each of its steps."""
    n, states = len(progress.images), [*progress.rng, *progress.cuda_rng]
    series = [progress.losses, progress.correct, *progress.logged.values()]
    good = (
        n > 0
        and all(isinstance(x, int) and 0 < x < 2**31 for x in progress.images)
        and all(is_series(x) and len(x) == n for x in series)
        and progress.correct.dtype == torch.int64
        and all(isinstance(k, str) for k in progress.logged)
        and all(is_series(x) and x.dtype == torch.uint8 for x in states)
    )
    try:
        for state in progress.rng if good else ():
            torch.Generator().set_state(state)
    except RuntimeError:
        good = False
    if not good:
        raise ValueError("its unfinished epoch is damaged")


def is_series(x: Any) -> bool:
    """Whether it is a dense tensor of real numbers on the CPU, of one dimension."""
    dense = isinstance(x, Tensor) and x.layout == torch.strided and x.device.type == "cpu"
    return dense and x.dim() == 1 and not x.is_complex()


def best_epoch(history: Sequence[EpochRecord]) -> int | None:
    """The epoch with the highest validation accuracy; None without validation images.

    Of equal ones it is that with the lowest loss.
    """
    if not history or history[0].split == "test":
        return None
    return max(history, key=lambda record: (record.eval_acc, -record.eval_loss)).epoch


def check_best(path: Path, last: Checkpoint) -> None:
    """Raise an error if the `best.pt` beside a `last.pt` is missing, or that of another run."""
    best = best_epoch(last.history)
    if best == len(last.history) and last.progress is None:
        return  # it is written anew
    if best:
        records = load_checkpoint(path / "best.pt").history
        if [r.time for r in records] != [r.time for r in last.history[:best]]:
            raise ValueError(f"{path / 'best.pt'} is not that of epoch {best} of this run")


def load_model(path: str | Path, net: nn.Module | None = None) -> nn.Module:
    """Return the trained network of a run, on the CPU and in eval mode.

    Its attribute `spec`, a `torchcnn.models.ModelSpec`, says what it takes and returns: the names
    of its classes, the size of its images, how they are normalized; `spec.prepare(image)` does so.

    Args:
        path: a checkpoint, or a run folder, whose `best.pt`, else `last.pt`, is taken.
        net: for a run of your own module: such a module, into which the weights are loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a checkpoint of torchcnn, or its weights do not fit.
    """
    return open_checkpoint(path, net)[0]


def open_checkpoint(path: str | Path, net: nn.Module | None = None) -> tuple[nn.Module, Checkpoint]:
    """Return `load_model`'s network and the whole checkpoint."""
    checkpoint = load_checkpoint(checkpoint_file(Path(path).expanduser()))
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced
        net = checkpoint.spec.build() if net is None else net
    return checkpoint.load_into(net).eval(), checkpoint
