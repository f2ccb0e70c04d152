"""How good a trained network is: `python -m torchcnn.evaluate --checkpoint RUN/best.pt`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.datasets import ImageData
from torchcnn.data.folder import load_images
from torchcnn.data.loader import Batches
from torchcnn.run.checkpoint import open_checkpoint
from torchcnn.run.report import by_class, confusion_text, plot_mistakes
from torchcnn.training.config import Config as TrainConfig
from torchcnn.training.config import data_name
from torchcnn.training.loop import accuracy, confusion_matrix, predict_logits

PROG = "python -m torchcnn.evaluate"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Evaluate a trained network on the test images of the data set that it was trained on."""

    checkpoint: str = option("a run's best.pt or last.pt, or the run's folder", required=True)
    data: str = option(
        "images to evaluate on, as train takes them (default: the run's)",
        default="",
        type=data_name,
    )
    root: str = option("folder of the data sets (default: the run's)", default="")
    device: str = option("auto, cpu, cuda, cuda:1 or mps", default="auto")
    out: str = option("folder to draw confusion.png and mistakes.png into", default="")


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        evaluate(Config(**cli.parse(Config, PROG, argv)))


def evaluate(config: Config) -> None:
    device = cli.pick_device(config.device)
    net, checkpoint = open_checkpoint(config.checkpoint)
    run, classes = checkpoint["config"], checkpoint["classes"]
    cli.check_stored(TrainConfig, run, config.checkpoint)
    name, root = config.data or run["data"], config.root or run["root"]
    data = load_images(name, root, run["input_size"], run["seed"], device)
    check_images(data, checkpoint, config.checkpoint)
    if config.out:
        Path(config.out).expanduser().mkdir(parents=True, exist_ok=True)
    batches = Batches(
        data.test_images,
        data.test_labels,
        run["batch_size"],
        size=run["input_size"],
        device=device,
    )
    logits, labels = (t.cpu() for t in predict_logits(net.to(device), batches))
    confusion = confusion_matrix(logits, labels)
    loss, correct = float(F.cross_entropy(logits.double(), labels)), int(confusion.diag().sum())
    print(f"{len(labels):,} test images of {data.name} ({data.note})")
    print(f"test acc {accuracy(confusion):.4f} ({correct:,} correct), loss {loss:.4f}\n")
    print(by_class(confusion, classes), end="\n\n")
    print(confusion_text(confusion, classes))
    if config.out:
        from torchcnn.run.plots import plot_confusion

        out = Path(config.out).expanduser()
        plot_confusion(confusion, classes).savefig(out / "confusion.png", dpi=150)
        mistakes = plot_mistakes(data.test_images, logits, labels, classes)
        mistakes.savefig(out / "mistakes.png", dpi=150)
        print(f"\n{out / 'confusion.png'} and {out / 'mistakes.png'} are drawn")


def check_images(data: ImageData, checkpoint: dict[str, Any], path: str) -> None:
    """Check that a checkpoint's network was trained on such classes and channels.

    Raises:
        ValueError: it was not.
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


if __name__ == "__main__":
    main()
