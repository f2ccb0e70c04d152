"""How good a trained network is: `python -m torchcnn.evaluate --checkpoint RUN/best.pt`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.datasets import ImageData
from torchcnn.data.folder import FolderOptions, load_images
from torchcnn.data.loader import Batches
from torchcnn.run.checkpoint import open_checkpoint
from torchcnn.run.drawing import drawing, save_figure
from torchcnn.run.report import by_class, confusion_text, plot_mistakes
from torchcnn.training.config import Config as TrainConfig
from torchcnn.training.config import data_name
from torchcnn.training.fastest import autocast
from torchcnn.training.loop import accuracy, confusion_matrix, predict_logits
from torchcnn.training.trainer import set_up_device

PROG = "python -m torchcnn.evaluate"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Evaluate a trained network on the test images of the data set that it was trained on."""

    checkpoint: str = option(
        "a run's best.pt or last.pt, or the run's folder", required=True, type=cli.path
    )
    data: str = option(
        "images to evaluate on, as train takes them (default: the run's)",
        default="",
        type=data_name,
    )
    root: str = option("folder of the data sets (default: the run's)", default="", type=cli.path)
    device: str = option("auto, cpu, cuda, cuda:1 or mps", default="auto")
    out: str = option(
        "folder to draw confusion.png and mistakes.png into", default="", type=cli.path
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        evaluate(Config(**cli.parse(Config, PROG, argv)))


def evaluate(config: Config) -> None:
    device = cli.pick_device(config.device)
    net, checkpoint = open_checkpoint(config.checkpoint)
    classes = checkpoint["classes"]
    cli.check_stored(TrainConfig, checkpoint["config"], config.checkpoint)
    run = TrainConfig(**checkpoint["config"])
    set_up_device(device, run.deterministic)
    seed = run.seed if checkpoint["torchcnn"] == 3 else None
    options = FolderOptions(run.input_size, run.resize, seed=seed)
    data = load_images(config.data or run.data, config.root or run.root, device, options)
    check_images(data, checkpoint, config.checkpoint)
    if config.out:
        Path(config.out).expanduser().mkdir(parents=True, exist_ok=True)
    part, images, labels = "test", data.test_images, data.test_labels
    if not len(labels) and data.val_images is not None and data.val_labels is not None:
        part, images, labels = "validation", data.val_images, data.val_labels
    batches = Batches(images, labels, run.batch_size, size=run.input_size, device=device)
    same_device = torch.device(run.device).type == device.type
    with autocast(run.amp if same_device else "off", device):  # as the run itself evaluated
        logits, labels = (t.cpu() for t in predict_logits(net.to(device), batches))
    confusion = confusion_matrix(logits, labels)
    loss, correct = float(F.cross_entropy(logits.double(), labels)), int(confusion.diag().sum())
    print(f"{len(labels):,} {part} images of {data.name} ({data.note})")
    print(f"{part} acc {accuracy(confusion):.4f} ({correct:,} correct), loss {loss:.4f}\n")
    print(by_class(confusion, classes), end="\n\n")
    print(confusion_text(confusion, classes))
    if config.out:
        out = Path(config.out).expanduser()
        with drawing("confusion.png"):
            from torchcnn.run.plots import plot_confusion

            save_figure(plot_confusion(confusion, classes), out / "confusion.png")
            print(f"\n{out / 'confusion.png'} is drawn")
        with drawing("mistakes.png"):
            save_figure(plot_mistakes(images, logits, labels, classes), out / "mistakes.png")
            print(f"{out / 'mistakes.png'} is drawn")


def check_images(data: ImageData, checkpoint: dict[str, Any], path: str) -> None:
    """Check that a checkpoint's network was trained on such classes and channels.

    If these are not the images that the run was tested on, say so.

    Raises:
        ValueError: the classes or channels are others.
    """
    classes, channels = checkpoint["classes"], checkpoint["model"]["in_channels"]
    if list(data.classes) != classes:
        raise ValueError(
            f"{path} was trained on the classes {', '.join(classes)}; "
            f"{data.name} has {', '.join(data.classes)}"
        )
    if data.test_images.shape[1] != channels:
        raise ValueError(
            f"{path} takes images of {channels} channels; those of {data.name} have "
            f"{data.test_images.shape[1]}"
        )
    same = data.name == checkpoint["config"]["data"]
    if digests := checkpoint.get("digests"):
        same = digests == data.digests
    if not same:
        print("note: these are not the images of the run; it may have been trained on some of them")


if __name__ == "__main__":
    main()
