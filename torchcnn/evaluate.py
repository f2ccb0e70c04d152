"""How good a trained network is: `python -m torchcnn.evaluate --checkpoint RUN/best.pt`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.identity import copies_text
from torchcnn.figures.draw import drawing, save_figure
from torchcnn.files import checkpoint_file, read_dataclass
from torchcnn.names import DATASETS
from torchcnn.system import free_memory, keep_freed_memory
from torchcnn.training.config import Config as TrainConfig
from torchcnn.training.config import data_name

if TYPE_CHECKING:
    import torch

    from torchcnn.data.datasets import ImageData
    from torchcnn.run.checkpoint import Checkpoint

PROG = "python -m torchcnn.evaluate"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Evaluate a trained network on the test images of the data set that it was trained on.

    Of a folder they are those in test/<class>/*, else in val/<class>/*, else all in <class>/*; of
    the folder that the run itself divided, they are those that it kept to test on.
    """

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
    top: int = option(
        "also print how often the true class is among so many of the most probable ones",
        default=0,
        type=cli.at_least_one,
    )
    json: bool = option("print JSON", default=False, action="store_true")
    out: str = option(
        "folder to draw confusion.png and mistakes.png into", default="", type=cli.path
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        keep_freed_memory()  # see `torchcnn.train.main`
        evaluate(config)


def evaluate(config: Config) -> None:
    import torch
    import torch.nn.functional as F

    from torchcnn.data.loader import Batches
    from torchcnn.run import report
    from torchcnn.run.checkpoint import open_checkpoint
    from torchcnn.training.device import device_settings
    from torchcnn.training.loop import accuracy, confusion_matrix, predict_logits
    from torchcnn.training.speed import autocast

    device = cli.pick_device(config.device)
    net, checkpoint = open_checkpoint(config.checkpoint)
    spec, classes = checkpoint.spec, list(checkpoint.spec.classes)
    run = read_dataclass(TrainConfig, checkpoint.config, f"{config.checkpoint}'s configuration")
    with device_settings(device, run.deterministic):
        part, data = read_images(config, run, checkpoint, device)
        check_images(data, checkpoint, config.checkpoint)
        if config.out:
            Path(config.out).expanduser().mkdir(parents=True, exist_ok=True)
        batches = Batches(
            data.test_images,
            data.test_labels,
            run.batch_size,
            size=spec.input_size,
            device=device,
            normalization=(spec.mean, spec.std) if spec.is_normalized else None,
        )
        same_device = run.device.split(":")[0] == device.type
        with autocast(run.amp if same_device else "off", device):  # as the run itself evaluated
            logits, labels = (t.cpu() for t in predict_logits(net.to(device), batches))
    confusion, copies = confusion_matrix(logits, labels), {}
    if data.ids and checkpoint.trained is not None:
        seen = torch.isin(data.ids["test"], checkpoint.trained)
        copies["images_in_training"] = int(seen.sum())
    about = {
        "checkpoint": str(checkpoint_file(Path(config.checkpoint).expanduser())),
        "epoch": len(checkpoint.history),
        "data": data.name,
        "part": part,
        "images": len(labels),
        **copies,
        "accuracy": accuracy(confusion),
        "correct": int(confusion.diag().sum()),
        "loss": float(F.cross_entropy(logits.double(), labels)),
        "confused": [
            {"class": true, "predicted": other, "images": n}
            for true, other, n in report.confused(confusion, classes)
        ],
    }
    if config.top:
        found = logits.topk(min(config.top, len(classes))).indices == labels[:, None]
        about[f"top_{config.top}"] = int(found.sum()) / len(labels)
    show(config, about, confusion, data)
    if config.out:
        draw(config, data, logits, labels)


def show(config: Config, about: dict[str, Any], confusion: torch.Tensor, data: ImageData) -> None:
    """Print what was evaluated, how well it did, and which classes it confuses."""
    from torchcnn.run import report

    classes = list(data.classes)
    if config.json:
        tables = {
            "classes": report.classes_as_json(confusion, classes),
            "confusion": confusion.tolist(),
        }
        print(json.dumps(about | tables, indent=1))
        return
    part = {"test": "test ", "val": "validation ", "all": ""}[about["part"]]
    print(f"{about['checkpoint']}, epoch {about['epoch']}")
    print(f"{about['images']:,} {part}images of {about['data']} ({data.note})")
    if copies := about.get("images_in_training"):
        print(copies_text(copies, about["images"], f"{part}images"))
    right = f"acc {about['accuracy']:.4f} ({about['correct']:,} correct)"
    print(f"{part}{right}, loss {about['loss']:.4f}\n")
    print(report.by_class(confusion, classes), end="\n\n")
    print(report.confusion_text(confusion, classes))
    if config.top:
        print(f"\ntop-{config.top} acc {about[f'top_{config.top}']:.4f}")
    if said := report.confused_text(confusion, classes):
        print(f"\n{said}")


def draw(config: Config, data: ImageData, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Draw the confusion matrix and the surest mistakes into the folder `--out`."""
    from torchcnn.figures.results import plot_confusion, plot_mistakes
    from torchcnn.training.loop import confusion_matrix

    classes, images, names = list(data.classes), data.test_images, data.names.get("test")
    figures = {
        "confusion.png": partial(plot_confusion, confusion_matrix(logits, labels), classes),
        "mistakes.png": partial(plot_mistakes, images, logits, labels, classes, names),
    }
    for name, plot in figures.items():
        path = Path(config.out).expanduser() / name
        with drawing(name):
            save_figure(plot(), path)
            if not config.json:
                print(f"{path} is drawn")


def read_images(
    config: Config, run: TrainConfig, checkpoint: Checkpoint, device: torch.device
) -> tuple[str, ImageData]:
    """Read the images to judge by, as the test images of a data set, and say which part it is."""
    from torchcnn.data.folder import FolderOptions, load_images
    from torchcnn.data.judged import load_judged

    name, channels = config.data or run.data, checkpoint.spec.in_channels
    room = free_memory(device) // 4
    options = FolderOptions(run.input_size, run.resize, channels=channels, max_bytes=room)
    if name in DATASETS:
        return "test", load_images(name, config.root or run.root, device, options)
    return load_judged(Path(name), options, checkpoint.spec.classes, checkpoint.trained)


def check_images(data: ImageData, checkpoint: Checkpoint, path: str) -> None:
    """Check that a checkpoint's network was trained on such classes.

    If these are not the images that the run was tested on, say so.

    Raises:
        ValueError: the classes are others.
    """
    classes = list(checkpoint.spec.classes)
    if list(data.classes) != classes:
        raise ValueError(
            f"{path} was trained on the classes {', '.join(classes)}; "
            f"{data.name} has {', '.join(data.classes)}"
        )
    same = data.name == checkpoint.config["data"]
    if data.digests:
        digests = checkpoint.digests
        same = data.digests["test"] in (digests.get("test"), digests.get("val"))
    if not same:
        print("note: these are not the images that the run was tested on", file=sys.stderr)


if __name__ == "__main__":
    main()
