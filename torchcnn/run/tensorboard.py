"""What TensorBoard shows of a run: curves, hyperparameters, configuration, pictures, graph.

As Keras's callback writes them, the events lie in sub-runs `train`, `val` and `test` with the same
tags, so that one chart shows a curve of each in a color of its own.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.run.checkpoint import EpochRecord

SUFFIX = ".torchcnn"  # of the event files, to tell them from those that others write beside them
LOOK = ".explain"  # those of a look inside, which are not replaced with the run
SUB_RUNS = ("train", "val", "test")
# They say where and how far a run goes, not how a network is trained.
NO_HYPERPARAMETERS = {"root", "device", "out", "resume", "checkpoint_every", "verbose"}
# What the chosen weights reach, as tags of the run itself; the sub-runs have that of every epoch.
CHOSEN = {
    f"chosen/{part} {name}": f"{part}_{short}"
    for part in ("val", "test")
    for name, short in (("accuracy", "acc"), ("loss", "loss"))
}


class TensorBoard:
    """The event files of a run. Those that it wrote before are replaced, and no others.

    Args:
        path: the run folder.
        config: the configuration of the run.
        split: what is evaluated after each epoch, "val" or "test".
        history: the epochs that it has made.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], split: str, history: Iterable[EpochRecord]
    ) -> None:
        old = event_files(path)
        self.path, self.split = path, split
        self.run = make_writer(path)
        self.parts = {name: make_writer(path / name) for name in {"train", self.split}}
        self.run.add_text("configuration", as_markdown(config))
        from torch.utils.tensorboard.summary import hparams  # after `make_writer`, which see

        values = {
            name: value if type(value) in (int, float) else str(value)
            for name, value in config.items()
            if name not in NO_HYPERPARAMETERS
        }
        # All runs have the same columns: TensorBoard's HPARAMS shows those of the first it finds.
        for summary in hparams(values, dict.fromkeys(CHOSEN))[:2]:  # the third says "success"
            self.run.file_writer.add_summary(summary)
        for record in history:
            self.add_epoch(record)
        for file in old:  # only now that all they hold is written anew
            file.unlink()

    def add_epoch(self, record: EpochRecord) -> None:
        """Show the numbers of an epoch, and the loss of each of its steps."""
        time = record.time
        for part, scalars in record.scalars().items():
            for tag, value in scalars.items():
                self.parts[part].add_scalar(tag, value, record.epoch, walltime=time)
        losses = record.step_losses.tolist()
        for step, loss in enumerate(losses, start=(record.epoch - 1) * len(losses) + 1):
            self.parts["train"].add_scalar("loss by step", loss, step, walltime=time)
        for writer in (self.run, *self.parts.values()):
            writer.flush()

    def add_graph(self, net: nn.Module, x: Tensor) -> None:
        """Show the graph of a network, which must be in eval mode."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # add_graph uses TorchScript, which is deprecated
            try:  # what is traced already is not traced again, with a check that takes as long
                self.run.add_graph(torch.jit.trace(net, x, check_trace=False), x)
            except Exception as error:
                print(f"TensorBoard shows no graph of this network: {type(error).__name__}")

    def add_result(self, result: dict[str, Any], chosen: EpochRecord) -> None:
        """Show the loss and accuracy of the chosen weights, those of an epoch.

        On the test images they are a point of sub-run `test` as well.
        """
        scores = {f"{chosen.split}_acc": chosen.eval_acc, f"{chosen.split}_loss": chosen.eval_loss}
        scores |= result
        for tag, key in CHOSEN.items():
            if key in scores:
                self.run.add_scalar(tag, scores[key], chosen.epoch)
        if "test_acc" in result and self.split != "test":
            self.parts["test"] = make_writer(self.path / "test")
            for tag, key in (("loss", "test_loss"), ("accuracy", "test_acc")):
                self.parts["test"].add_scalar(tag, result[key], result["epoch"])

    def add_confusion(self, confusion: Tensor, classes: list[str], epoch: int) -> None:
        """Show a confusion matrix (k, k) at its epoch."""
        from torchcnn.figures.results import plot_confusion

        with BytesIO() as file:
            plot_confusion(confusion, classes).savefig(file, format="png", dpi=100)
            add_png(self.run, "confusion matrix", file.getvalue(), epoch)

    def close(self) -> None:
        for writer in (self.run, *self.parts.values()):
            writer.close()


def make_writer(path: Path, suffix: str = SUFFIX) -> Any:
    """Return a `SummaryWriter` into a folder, whose event files end in `suffix`.

    TensorBoard loads TensorFlow if it is installed, which costs seconds, prints on stderr, and is
    not needed to write events. It takes the existence of a module as the wish not to, and asks
    once.
    """
    wish = "tensorboard.compat.notf"
    is_ours = sys.modules.setdefault(wish, ours := ModuleType(wish)) is ours
    try:
        from tensorboard.compat import tf
        from torch.utils.tensorboard import SummaryWriter

        _ = tf.io  # now it asks
    finally:
        if is_ours:
            del sys.modules[wish]
    return SummaryWriter(str(path), filename_suffix=suffix)


def add_png(writer: Any, tag: str, png: bytes, step: int = 0) -> None:
    """Show a .png as it is; torch's `add_figure` draws a figure once more, by pyplot."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))  # of its header
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


@contextmanager
def writing_events(folder: Path, wanted: bool) -> Iterator[Callable[[str, Path], object]]:
    """Give a function that makes a .png file one of TensorBoard's images, by its tag.

    They are written at the end, if they are `wanted`, and take the place of an earlier look's.
    """
    pictures: dict[str, Path] = {}
    yield pictures.__setitem__
    if wanted:
        old = list(folder.glob(f"events.out.tfevents.*{LOOK}"))
        with make_writer(folder, LOOK) as writer:
            for tag, path in pictures.items():
                add_png(writer, tag, path.read_bytes())
        for file in old:
            file.unlink()


def event_files(path: Path) -> list[Path]:
    """The event files in a run folder and its sub-runs that `make_writer` made."""
    places = (path, *(path / name for name in SUB_RUNS))
    return [file for place in places for file in place.glob(f"events.out.tfevents.*{SUFFIX}")]


def as_markdown(config: dict[str, Any]) -> str:
    """Format a configuration as a table in Markdown."""
    rows = [f"| {name} | {value} |" for name, value in config.items() if value != ""]
    return "\n".join(["| flag | value |", "| --- | --- |", *rows])
