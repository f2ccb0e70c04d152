"""How good a trained network is: `python -m torchcnn.evaluate --checkpoint RUN/best.pt`."""

import json
import sys
from collections.abc import Callable, Sequence
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
from torchcnn.run.checkpoint import checkpoint_file, normalization, open_checkpoint
from torchcnn.run.drawing import drawing, save_figure
from torchcnn.run.report import by_class, classes_as_json, confusion_text, plot_mistakes
from torchcnn.system import keep_freed_memory
from torchcnn.training.config import Config as TrainConfig
from torchcnn.training.config import data_name
from torchcnn.training.device import device_settings
from torchcnn.training.fastest import autocast
from torchcnn.training.loop import accuracy, confusion_matrix, predict_logits

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
    device = cli.pick_device(config.device)
    net, checkpoint = open_checkpoint(config.checkpoint)
    classes = checkpoint["classes"]
    cli.check_stored(TrainConfig, checkpoint["config"], config.checkpoint)
    run = TrainConfig(**checkpoint["config"])
    with device_settings(device, run.deterministic):
        seed = run.seed if checkpoint["torchcnn"] == 3 else None
        options = FolderOptions(run.input_size, run.resize, seed=seed)
        data = load_images(config.data or run.data, config.root or run.root, device, options)
        check_images(data, checkpoint, config.checkpoint)
        if config.out:
            Path(config.out).expanduser().mkdir(parents=True, exist_ok=True)
        part, images, labels = "test", data.test_images, data.test_labels
        if not len(labels) and data.val_images is not None and data.val_labels is not None:
            part, images, labels = "val", data.val_images, data.val_labels
        batches = Batches(
            images,
            labels,
            run.batch_size,
            size=run.input_size,
            device=device,
            normalization=normalization(checkpoint),
        )
        same_device = torch.device(run.device).type == device.type
        with autocast(run.amp if same_device else "off", device):  # as the run itself evaluated
            logits, labels = (t.cpu() for t in predict_logits(net.to(device), batches))
    confusion = confusion_matrix(logits, labels)
    path = Path(config.checkpoint).expanduser()
    about = {
        "checkpoint": str(checkpoint_file(path) if path.is_dir() else path),
        "epoch": len(checkpoint["history"]),
        "data": data.name,
        "part": part,
        "images": len(labels),
        "accuracy": accuracy(confusion),
        "correct": int(confusion.diag().sum()),
        "loss": float(F.cross_entropy(logits.double(), labels)),
    }
    if config.json:
        tables = {"classes": classes_as_json(confusion, classes), "confusion": confusion.tolist()}
        print(json.dumps(about | tables, indent=1))
    else:
        print(as_text(about, data.note))
        print(by_class(confusion, classes), end="\n\n")
        print(confusion_text(confusion, classes))
    if config.out:
        names = data.names.get(part)
        figures = {
            "confusion.png": lambda: plots().plot_confusion(confusion, classes),
            "mistakes.png": lambda: plot_mistakes(images, logits, labels, classes, names),
        }
        draw(figures, Path(config.out).expanduser(), quiet=config.json)


def as_text(about: dict[str, Any], note: str) -> str:
    """Say what was evaluated, and how well it did."""
    part = {"test": "test", "val": "validation"}[about["part"]]
    return (
        f"{about['checkpoint']}, epoch {about['epoch']}\n"
        f"{about['images']:,} {part} images of {about['data']} ({note})\n"
        f"{part} acc {about['accuracy']:.4f} ({about['correct']:,} correct), "
        f"loss {about['loss']:.4f}\n"
    )


def draw(figures: dict[str, Callable[[], Any]], out: Path, quiet: bool) -> None:
    """Draw figures into a folder, by the names of their files."""
    for name, figure in figures.items():
        with drawing(name):
            save_figure(figure(), out / name)
            if not quiet:
                print(f"{out / name} is drawn")


def plots() -> Any:
    """The module that draws, which takes a second to import."""
    from torchcnn.run import plots

    return plots


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
        print(
            "note: these are not the images of the run; it may have been trained on some of them",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
