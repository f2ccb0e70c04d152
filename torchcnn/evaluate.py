"""How good a trained network is: `python -m torchcnn.evaluate --checkpoint RUN/best.pt`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.folder import load_images
from torchcnn.data.loader import Batches
from torchcnn.run.checkpoint import open_checkpoint
from torchcnn.text import table
from torchcnn.training.config import Config as TrainConfig
from torchcnn.training.config import data_name
from torchcnn.training.loop import accuracy, confusion_matrix, predict_logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "python -m torchcnn.evaluate"
MISTAKES = 25  # in the picture of them


@dataclass(kw_only=True)
class Config:
    """Judge a trained network on the test images of the set that it was trained on."""

    checkpoint: str = option("a run's best.pt or last.pt, or the run's folder", required=True)
    data: str = option("images to judge it on, as train takes them (default: the run's)",
                       default="", type=data_name)  # fmt: skip
    root: str = option("folder of the data sets (default: the run's)", default="")
    device: str = option("auto, cpu, cuda, cuda:1, mps", default="auto")
    out: str = option("folder for confusion.png and mistakes.png; none are drawn without it",
                      default="")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        evaluate(Config(**cli.parse(Config, PROG, argv)))


def evaluate(config: Config) -> None:
    device = cli.pick_device(config.device)
    net, checkpoint = open_checkpoint(config.checkpoint)
    run, classes = checkpoint["config"], checkpoint["classes"]
    cli.check(TrainConfig, run, config.checkpoint)
    data = load_images(config.data or run["data"], config.root or run["root"], run["input_size"],
                       run["seed"], device)  # fmt: skip
    if list(data.classes) != classes:
        raise ValueError(f"{config.checkpoint} was trained on the classes {', '.join(classes)}; "
                         f"{data.name} has {', '.join(data.classes)}")  # fmt: skip
    channels = checkpoint["model"]["in_channels"]
    if data.test_images.shape[1] != channels:
        raise ValueError(f"{config.checkpoint} takes images of {channels} channels; those of "
                         f"{data.name} have {data.test_images.shape[1]}")  # fmt: skip
    if config.out:
        Path(config.out).expanduser().mkdir(parents=True, exist_ok=True)
    batches = Batches(data.test_images, data.test_labels, run["batch_size"],
                      size=run["input_size"], device=device)  # fmt: skip
    logits, labels = (t.cpu() for t in predict_logits(net.to(device), batches))
    confusion = confusion_matrix(logits, labels)
    loss, right = float(F.cross_entropy(logits.double(), labels)), int(confusion.diag().sum())
    print(f"{len(labels):,} test images of {data.name} ({data.note})")
    print(f"test acc {accuracy(confusion):.4f} ({right:,} right), loss {loss:.4f}\n")
    print(by_class(confusion, classes), end="\n\n")
    print(confusion_text(confusion, classes))
    if config.out:
        from torchcnn.run.plots import plot_confusion

        out = Path(config.out).expanduser()
        plot_confusion(confusion, classes).savefig(out / "confusion.png", dpi=150)
        plot_mistakes(data.test_images, logits, labels, classes).savefig(
            out / "mistakes.png", dpi=150
        )
        print(f"\n{out / 'confusion.png'} and {out / 'mistakes.png'} are drawn")


def by_class(confusion: Tensor, classes: list[str]) -> str:
    """Of each class: images, the share that is found, and the share of its name that is right."""
    right, images, named = confusion.diag(), confusion.sum(1), confusion.sum(0)
    rows = [["class", "images", "recall", "precision"]]
    for i, name in enumerate(classes):
        shares = [f"{int(right[i]) / int(n):.3f}" if n else "-" for n in (images[i], named[i])]
        rows.append([name, f"{int(images[i]):,}", *shares])
    return table(rows, left={0})


def confusion_text(confusion: Tensor, classes: list[str]) -> str:
    """Rows are the true classes; columns, in the same order and by number, what was said."""
    head = ["true \\ predicted", *(str(i) for i in range(len(classes)))]
    rows = [
        [f"{i} {name}", *(str(n) if n else "." for n in counts)]
        for i, (name, counts) in enumerate(zip(classes, confusion.tolist(), strict=True))
    ]
    return table([head, *rows], left={0})


def plot_mistakes(images: Tensor, logits: Tensor, labels: Tensor, classes: list[str]) -> "Figure":
    """The wrong answers that the network was surest of, the surest first."""
    from torchcnn.run.plots import plot_images

    probability, said = logits.softmax(1).max(1)
    wrong = (said != labels).nonzero()[:, 0]
    worst = wrong[probability[wrong].argsort(descending=True, stable=True)][:MISTAKES].tolist()
    titles = [f"{classes[said[i]]} {probability[i]:.0%}\n({classes[labels[i]]})" for i in worst]
    heading = f"the surest {len(worst)} of {len(wrong):,} mistakes: said (true)"
    return plot_images([images[i] for i in worst], titles, heading)


if __name__ == "__main__":
    main()
