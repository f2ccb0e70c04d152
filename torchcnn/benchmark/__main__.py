"""How fast the loop is: `python -m torchcnn.benchmark --arch lenet --device cpu`.

Three ways to train the same network on the same images, in turn, in one process: the tutorial's
way, this package's, and the bound, which is the same steps on one batch that is already in place.
With `--layers scratch` it is the layers that are compared: torch's and the hand-written ones,
eager and compiled, each in this package's loop. Speeds drift from minute to minute, so what counts
are the ratios, taken round by round.
"""

import argparse
import inspect
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchcnn import cli
from torchcnn.benchmark.memory import PeakMemory
from torchcnn.benchmark.roofline import count, least_seconds, machine_rates
from torchcnn.cli import option
from torchcnn.data.datasets import DATA_NAMES, load_data
from torchcnn.data.loader import Batches
from torchcnn.models import find_model
from torchcnn.models.registry import build_model
from torchcnn.scratch import from_scratch
from torchcnn.text import table
from torchcnn.training.loop import train_epoch

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
    roofline: bool = option("also count operations and bytes, against the machine's best rates",
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


WAYS = {
    "torch": ("tutorial", "torchcnn", "bound"),
    "scratch": ("torch", "by hand", "torch, compiled", "by hand, compiled"),
}
WEIGHED = {"torch": ("tutorial", "torchcnn"), "scratch": ("torch", "by hand")}
RATIOS = {
    "torch": [("torchcnn", "tutorial"), ("torchcnn", "bound")],
    "scratch": [("by hand", "torch"), ("by hand, compiled", "torch"),
                ("by hand, compiled", "torch, compiled")],
}  # fmt: skip


def contender(arch: str, config: Config, way: str) -> Callable[[], int]:
    """One of the ways, with a network of its own; calling it trains for an epoch: -> images."""
    device = cli.pick_device(config.device)
    builder, data = find_model(arch).builder, load_data(config.data, config.root)
    batch_size, size = size_of(arch, config)
    count = min(config.images, len(data.train_labels))
    count -= count % batch_size  # whole batches, so that all do the same steps
    if not count:
        raise ValueError(f"--images must be at least a batch of {batch_size}")
    images, labels = data.train_images[:count], data.train_labels[:count]
    channels = max(images.shape[1], 3 if find_model(arch).input[0] == 3 else 1)
    images = images.expand(-1, channels, -1, -1).contiguous()

    torch.manual_seed(0)
    small = config.small_input and "small_input" in inspect.signature(builder).parameters
    net = build_model(arch, channels, len(data.classes), size, "torch", small).to(device)
    fused = way != "tutorial" or None
    optimizer = torch.optim.Adam(net.parameters(), lr=find_model(arch).recipe.lr, fused=fused)
    if way == "tutorial":
        loader = DataLoader(TutorialImages(images, labels, size), batch_size, shuffle=True,
                            num_workers=TUTORIAL_WORKERS)  # fmt: skip
        return lambda: tutorial_epoch(net, loader, optimizer, device)
    ours = Batches(images, labels, batch_size, shuffle=True, size=size, device=device)
    if "by hand" in way:
        net = from_scratch(net)
    if "compiled" in way:
        net.compile()
    source = OneBatch(ours) if way == "bound" else ours
    return lambda: train_epoch(net, source, optimizer).images


def size_of(arch: str, config: Config) -> tuple[int, int]:
    """Images a step, and pixels a side."""
    recipe = find_model(arch).recipe
    return config.batch_size or recipe.batch_size, config.input_size or recipe.input_size


def peak_of(arch: str, config: Config, way: str) -> float | None:
    """MiB that one way takes at most: the images, the network, a step; for a new process."""
    _no_warning_of_workers()
    peak = PeakMemory(cli.pick_device(config.device))
    peak.restart()
    before = peak.read()
    contender(arch, config, way)()
    after = peak.read()
    return after - before if after is not None and before is not None else None


def peak_alone(arch: str, config: Config, way: str) -> float | None:
    """`peak_of` in a process that begins with nothing: what is freed here would be taken again."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(peak_of, arch, config, way).result()


class Measured(NamedTuple):
    speeds: dict[str, list[float]]  # images per second of each way, round by round
    memory: dict[str, float | None]  # MiB
    roofline: float | None  # images per second


def measure(arch: str, config: Config, rates: tuple[float, float] | None) -> Measured:
    """Every way in every round, after one round to warm up; then their memory, one by one."""
    ways = {way: contender(arch, config, way) for way in WAYS[config.layers]}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(config.rounds + 1):
        for way in random.Random(round).sample(list(ways), len(ways)):  # what was before matters
            began = time.perf_counter()
            images = ways[way]()
            if round:
                speeds[way].append(images / (time.perf_counter() - began))
    memory = {way: peak_alone(arch, config, way) for way in WEIGHED[config.layers]}
    roof = None
    if rates:
        roof = images / least_seconds(*count(ways["bound"]), rates)
    return Measured(speeds, memory, roof)


def spread(values: list[float]) -> str:
    """median (min to max)"""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def report(results: dict[str, Measured], config: Config) -> str:
    """One row a network: images/s, ratios, memory."""
    ways, weighed = WAYS[config.layers], WEIGHED[config.layers]
    ratios = RATIOS[config.layers]
    rows = [["", "batch", "pixels", *ways, *(f"{a} / {b}" for a, b in ratios)]]
    rows[0] += [f"MiB, {way}" for way in weighed] + ["of roofline"] * config.roofline
    for arch, (speeds, memory, roof) in results.items():
        row = [arch, *map(str, size_of(arch, config))]
        row += [f"{statistics.median(speeds[way]):,.0f}" for way in ways]
        row += [spread([a / b for a, b in zip(speeds[way], speeds[other], strict=True)])
                for way, other in ratios]  # fmt: skip
        row += [f"{memory[way]:,.0f}" if memory[way] else "-" for way in weighed]
        row += [f"{statistics.median(speeds['torchcnn']) / roof:.2f}"] if roof else []
        rows.append(row)
    return table(rows, left={0})


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        device = cli.pick_device(config.device)
        _no_warning_of_workers()
        if config.roofline and config.layers == "scratch":
            raise ValueError("--roofline is of torch's layers; leave out --layers scratch")
        rates = machine_rates(device) if config.roofline else None
        results = {arch: measure(arch, config, rates) for arch in config.arch.split(",")}
        about = {"torch": torch.__version__, "device": machine(device), "rounds": config.rounds,
                 "matrix_rate": rates and rates[0], "copy_rate": rates and rates[1]}  # fmt: skip
        if config.json:
            networks = {arch: {"images_per_second": m.speeds, "peak_mib": m.memory,
                               "roofline": m.roofline} for arch, m in results.items()}  # fmt: skip
            print(json.dumps(about | {"networks": networks}, indent=1))
            return
        print(f"torch {about['torch']}, {about['device']}, n = {config.rounds} rounds; images/s, "
              "median, and ratios, median (min to max)")  # fmt: skip
        if rates:
            print(f"roofline: {rates[0] / 1e9:,.0f} Gflop/s, {rates[1] / 1e9:,.1f} GB/s")
        print("\n" + report(results, config))


def _no_warning_of_workers() -> None:
    warnings.filterwarnings("ignore", "This DataLoader will create 4 worker")  # it is meant so


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
