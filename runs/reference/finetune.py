"""Fine-tuning on few images: weights of five classes of Fashion-MNIST go on with the other five.

    python runs/reference/finetune.py lenet,resnet20

Prints the accuracy on training images that are held out, by which the recipe was chosen, and that
on the test images.
"""

import contextlib
import io
import itertools
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import torchcnn
from torchcnn.data.datasets import DATASETS, ImageData, load_data
from torchcnn.data.loader import Batches
from torchcnn.train import train
from torchcnn.training.trainer import TrainResult

SEEDS = range(5)
COUNTS = (20, 100)  # images of a class
BODY = {"lenet": "stage1,stage2", "resnet20": "stem,stage1,stage2,stage3"}
FLIP: dict[str, Any] = {"augment": "flip"}
WAYS: dict[str, dict[str, Any]] = {
    "anew": {"recipe": "fast"},
    "head first, then all": FLIP | {"body_lr": 0.01},
    "finetune, flipped": FLIP,
    "finetune, flipped, lr 3e-3, body_lr 0.3": FLIP | {"lr": 3e-3, "body_lr": 0.3},
    "finetune": {},
}


def of_classes(data: ImageData, first: int, count: int = 0, seed: int = 0) -> ImageData:
    """Five classes from `first` on: of each `count` of the first 50,000 images, drawn by the seed.

    The images to test on are the last 5,000 training images.
    """
    chosen = []
    for label in range(first, first + 5):
        found = (data.train_labels[:50_000] == label).nonzero()[:, 0]
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        chosen.append(found[order][: count or None])
    kept = torch.cat(chosen)
    held_out = five(data.train_images[-5_000:], data.train_labels[-5_000:], first)
    return replace(
        data,
        classes=data.classes[first : first + 5],
        train_images=data.train_images[kept],
        train_labels=data.train_labels[kept] - first,
        test_images=held_out[0],
        test_labels=held_out[1],
    )


def five(x: torch.Tensor, y: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of five classes."""
    mine = (y >= first) & (y < first + 5)
    return x[mine], y[mine] - first


def run(**flags: Any) -> TrainResult:
    """Train without a word."""
    with contextlib.redirect_stdout(io.StringIO()):
        return train(device="cpu", val_fraction=0.2, **flags)


def run_way(way: str, source: Path, out: Path, count: int, **common: Any) -> TrainResult:
    """Train by one of the ways, all with as many steps."""
    epochs = 30 if count == 20 else 40
    if way == "anew":
        batch = 8 if count == 20 else 32
        return run(**common, **WAYS[way], batch_size=batch, epochs=epochs, out=out)
    if way.startswith("head first"):
        head = out.with_name(f"{out.name}-head")
        body = BODY[common["arch"]]
        run(**common, **FLIP, init=source, freeze=body, epochs=1, out=head)
        source = head
    return run(**common, **WAYS[way], init=source, epochs=epochs, out=out)


def main(arch: str) -> None:
    data = load_data("fashion-mnist")
    test = five(data.test_images, data.test_labels, 5)
    with tempfile.TemporaryDirectory() as folder:
        DATASETS["first five"] = lambda root: of_classes(data, 0)
        source = Path(folder) / "source"
        run(arch=arch, data="first five", recipe="fast", epochs=2, out=source)
        for count, way in itertools.product(COUNTS, WAYS):
            found: tuple[list[float], list[float]] = [], []
            for seed in SEEDS:
                few = of_classes(data, 5, count, seed)
                DATASETS["other five"] = lambda root, few=few: few
                out = Path(folder) / f"{count}-{way}-{seed}"
                result = run_way(way, source, out, count, arch=arch, data="other five", seed=seed)
                net: Any = torchcnn.load_model(out)
                normalization = net.spec.mean, net.spec.std
                batches = Batches(*test, 256, size=net.spec.input_size, normalization=normalization)
                found[0].append(result.test_acc)
                found[1].append(torchcnn.evaluate_accuracy(batches, net))
            texts = [f"{statistics.mean(x):.3f} ± {statistics.stdev(x):.3f}" for x in found]
            print(f"| {arch} | {count} | {way} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1].split(","):
        main(name)
