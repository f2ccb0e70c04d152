"""How fast the loop is: `python -m torchcnn.benchmark --arch lenet --device cpu`.

Three ways to train the same network on the same images, in turn, in one process: the tutorial's
way, this package's, and the bound, which is this package's loop fed one batch that is already in
place. With `--layers scratch` it is the layers that are compared: torch's and the hand-written
ones, eager and compiled, each in this package's loop. Speeds drift from minute to minute, so what
counts are the ratios, taken round by round.
"""

import argparse
import inspect
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchcnn import cli
from torchcnn.batches import Batches
from torchcnn.checkpoint import build_model
from torchcnn.cli import option
from torchcnn.data import DATA_NAMES, load_data
from torchcnn.loop import train_epoch
from torchcnn.models import find_model
from torchcnn.scratch import from_scratch

PROG = "python -m torchcnn.benchmark"
TUTORIAL_WORKERS = 4  # what the tutorial's load_data_fashion_mnist asks for


def networks(text: str) -> str:
    """A reader of names of networks with commas between them."""
    for name in text.split(","):
        try:
            find_model(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


@dataclass(kw_only=True)
class Config:
    """Compare the speed of training with the tutorial's way and with the bound, side by side."""

    arch: str = option("networks, with commas between them", default="lenet", type=networks)
    data: str = option("images to train on", default="auto", choices=DATA_NAMES)
    root: str = option("folder of the data sets", default="data")
    device: str = option("auto, cpu, cuda, cuda:1, mps", default="auto")
    layers: str = option("scratch: compare the hand-written layers with torch's instead",
                         default="torch", choices=("torch", "scratch"))  # fmt: skip
    images: int = option("images an epoch, at most", default=10_000, type=cli.at_least_one)
    batch_size: int = option("images a step (default: the recipe's)", default=0,
                             type=cli.at_least_one)  # fmt: skip
    input_size: int = option("pixels a side (default: the recipe's)", default=0, type=cli.pixels)
    small_input: bool = option("a stem for images of about 30 pixels, where the network has one",
                               default=False, action="store_true")  # fmt: skip
    rounds: int = option("measured rounds, after one to warm up", default=7, type=cli.at_least_one)
    json: bool = option("print JSON, every round of it", default=False, action="store_true")


class TutorialImages(Dataset[tuple[Tensor, int]]):
    """As torchvision gives them: an image at a time, through Pillow, `Resize` and `ToTensor`."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        from torchvision import transforms

        resize = [transforms.Resize(size)] if size != images.shape[-1] else []
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([*resize, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        image = Image.fromarray(self.images[i].permute(1, 2, 0).squeeze(2).numpy())
        return self.transform(image), int(self.labels[i])


def tutorial_epoch(
    net: nn.Module, train_iter: Any, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    """The tutorial's loop: two `.item()` a step."""
    loss_sum, acc_sum, n = 0.0, 0.0, 0
    for x, y in train_iter:
        x, y = x.to(device), y.to(device)
        y_hat = net(x)
        loss = F.cross_entropy(y_hat, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.cpu().item()
        acc_sum += (y_hat.argmax(dim=1) == y).sum().cpu().item()
        n += len(y)
    return n


class OneBatch:
    """The same batch again and again: what is left is the network, the optimizer and the loop."""

    def __init__(self, batches: Batches) -> None:
        self.batch, self.count = next(iter(batches)), len(batches.labels) // batches.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return repeat(self.batch, self.count)

    def __len__(self) -> int:
        return self.count


def contenders(arch: str, config: Config) -> dict[str, Callable[[], int]]:
    """The ways to compare, each with a network of its own; calling one trains: -> images."""
    device = cli.pick_device(config.device)
    recipe, builder = find_model(arch).recipe, find_model(arch).builder
    data = load_data(config.data, config.root)
    size = config.input_size or recipe.input_size
    batch_size = config.batch_size or recipe.batch_size
    count = min(config.images, len(data.train_labels))
    count -= count % batch_size  # whole batches, so that all do the same steps
    if not count:
        raise ValueError(f"--images must be at least a batch of {batch_size}")
    images, labels = data.train_images[:count], data.train_labels[:count]
    ours = Batches(images, labels, batch_size, shuffle=True, size=size, device=device)

    def new() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        small = config.small_input and "small_input" in inspect.signature(builder).parameters
        net = build_model(arch, images.shape[1], len(data.classes), size, "torch", small)
        net = net.to(device)
        return net, torch.optim.Adam(net.parameters(), lr=recipe.lr)

    if config.layers == "scratch":
        (net1, opt1), (net2, opt2), (net3, opt3), (net4, opt4) = new(), new(), new(), new()
        by_hand, both = from_scratch(net2), from_scratch(net4)
        net3.compile()
        both.compile()
        return {
            "torch": lambda: train_epoch(net1, ours, opt1).images,
            "by hand": lambda: train_epoch(by_hand, ours, opt2).images,
            "torch, compiled": lambda: train_epoch(net3, ours, opt3).images,
            "by hand, compiled": lambda: train_epoch(both, ours, opt4).images,
        }
    (net1, opt1), (net2, opt2), (net3, opt3) = new(), new(), new()
    loader = DataLoader(TutorialImages(images, labels, size), batch_size, shuffle=True,
                        num_workers=TUTORIAL_WORKERS)  # fmt: skip
    bound = OneBatch(ours)
    return {
        "tutorial": lambda: tutorial_epoch(net1, loader, opt1, device),
        "torchcnn": lambda: train_epoch(net2, ours, opt2).images,
        "bound": lambda: train_epoch(net3, bound, opt3).images,
    }


RATIOS = {
    "torch": [("torchcnn", "tutorial"), ("torchcnn", "bound")],
    "scratch": [("by hand", "torch"), ("by hand, compiled", "torch"),
                ("by hand, compiled", "torch, compiled")],
}  # fmt: skip


def measure(arch: str, config: Config) -> dict[str, list[float]]:
    """Images per second of every contender, round by round."""
    ways = contenders(arch, config)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for round in range(config.rounds + 1):
        for name, epoch in ways.items():
            began = time.perf_counter()
            images = epoch()
            if round:  # the first warms up
                speeds[name].append(images / (time.perf_counter() - began))
    return speeds


def spread(values: list[float], digits: int) -> str:
    """median (min to max)"""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        warnings.filterwarnings("ignore", "This DataLoader will create 4 worker")  # it is meant so
        results = {arch: measure(arch, config) for arch in config.arch.split(",")}
        if config.json:
            print(json.dumps({"torch": torch.__version__, "device": config.device,
                              "rounds": config.rounds, "images per second": results}))  # fmt: skip
            return
        print(f"torch {torch.__version__}, n = {config.rounds} rounds, median (min to max)")
        for arch, speeds in results.items():
            print(f"\n{arch}")
            for name, values in speeds.items():
                print(f"{name:<38}{spread(values, 0)} images/s")
            for name, other in RATIOS[config.layers]:
                ratios = [a / b for a, b in zip(speeds[name], speeds[other], strict=True)]
                print(f"{f'{name} / {other}':<38}{spread(ratios, 2)}")


if __name__ == "__main__":
    main()
