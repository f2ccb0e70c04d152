"""The command that measures training speed: `python -m torchcnn.benchmark --arch lenet`.

It trains the same network on the same images in several ways, in turn and in one process; see
`ways`. The speed of a machine varies from minute to minute, so the ratios of speeds, which are
computed for each round, are more reliable than the speeds.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from torchcnn import cli
from torchcnn.benchmark.memory import peak_in_new_process
from torchcnn.benchmark.roofline import count, least_seconds, machine_rates
from torchcnn.benchmark.ways import MEMORY_WAYS, RATIOS, WAYS, Task, make_epoch, train_once
from torchcnn.cli import option
from torchcnn.data.datasets import DATASETS
from torchcnn.models import find_model
from torchcnn.text import table

PROG = "python -m torchcnn.benchmark"


def networks(text: str) -> str:
    """Check a list of network names that are separated by commas, for argparse."""
    for name in text.split(","):
        try:
            find_model(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


@dataclass(kw_only=True)
class Config:
    """Compare the speed of training with that of the tutorial's loop and with a bound."""

    arch: str = option("networks, separated by commas", default="lenet", type=networks)
    data: str = option("images to train on", default="auto", choices=tuple(DATASETS))
    root: str = option("folder of the data sets", default="data")
    device: str = option("auto, cpu, cuda, cuda:1, mps", default="auto")
    layers: str = option(
        "scratch: compare the hand-written layers with torch's instead",
        default="torch",
        choices=("torch", "scratch"),
    )
    images: int = option(
        "largest number of images per epoch", default=10_000, type=cli.at_least_one
    )
    batch_size: int = option(
        "images per batch (default: the recipe's)", default=0, type=cli.at_least_one
    )
    input_size: int = option(
        "height and width of the images (default: the recipe's)", default=0, type=cli.pixels
    )
    small_input: bool = option(
        "use a stem for images of about 30 pixels, if the network has one",
        default=False,
        action="store_true",
    )
    roofline: bool = option(
        "also count operations and bytes, and report the bound that they set",
        default=False,
        action="store_true",
    )
    decoding: bool = option(
        "compare the decoding of a large photo with Pillow's instead",
        default=False,
        action="store_true",
    )
    rounds: int = option(
        "measured rounds, after one warm-up round", default=7, type=cli.at_least_one
    )
    json: bool = option("print all rounds as JSON", default=False, action="store_true")

    def task(self, arch: str) -> Task:
        """Return the task for one of the networks, with its recipe's settings as defaults."""
        recipe = find_model(arch).recipe
        return Task(
            arch=arch,
            data=self.data,
            root=self.root,
            device=cli.pick_device(self.device),
            images=self.images,
            batch_size=self.batch_size or recipe.batch_size,
            input_size=self.input_size or recipe.input_size,
            small_input=self.small_input,
        )


class Measured(NamedTuple):
    """The results for one network."""

    speeds: dict[str, list[float]]  # images per second in each round, by way
    memory: dict[str, float | None]  # MiB, by way
    roofline: float | None  # images per second


def measure(task: Task, layers: str, rounds: int, rates: tuple[float, float] | None) -> Measured:
    """Measure every way in every round, after one warm-up round, and then the memory of each.

    Within a round the order is random, because a way may influence the speed of the next one.
    """
    ways = {way: make_epoch(way, task) for way in WAYS[layers]}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(rounds + 1):
        for way in random.Random(round).sample(list(ways), len(ways)):
            began = time.perf_counter()
            images = ways[way]()
            if round:
                speeds[way].append(images / (time.perf_counter() - began))
    memory = {
        way: peak_in_new_process(partial(train_once, way, task), task.device)
        for way in MEMORY_WAYS[layers]
    }
    roof = None
    if rates:
        roof = images / least_seconds(*count(ways["bound"]), rates)
    return Measured(speeds, memory, roof)


def spread(values: list[float]) -> str:
    """Format values as their median, minimum and maximum: "0.98 (0.95 to 1.02)"."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def report(results: dict[str, Measured], config: Config) -> str:
    """Format the results as a table with a row for each network: images/s, ratios, memory."""
    ways, ratios = WAYS[config.layers], RATIOS[config.layers]
    memory_ways = MEMORY_WAYS[config.layers]
    head = ["", "batch", "pixels", *ways, *(f"{a} / {b}" for a, b in ratios)]
    head += [f"MiB, {way}" for way in memory_ways] + ["of roofline"] * config.roofline
    rows = [head]
    for arch, (speeds, memory, roof) in results.items():
        task = config.task(arch)
        row = [arch, str(task.batch_size), str(task.input_size)]
        row += [f"{statistics.median(speeds[way]):,.0f}" for way in ways]
        for way, other in ratios:
            pairs = zip(speeds[way], speeds[other], strict=True)
            row.append(spread([a / b for a, b in pairs]))
        row += [f"{memory[way]:,.0f}" if memory[way] else "-" for way in memory_ways]
        row += [f"{statistics.median(speeds['torchcnn']) / roof:.2f}"] if roof else []
        rows.append(row)
    return table(rows, left={0})


def report_json(results: dict[str, Measured], about: dict[str, object]) -> str:
    networks = {
        arch: {
            "images_per_second": measured.speeds,
            "peak_mib": measured.memory,
            "roofline": measured.roofline,
        }
        for arch, measured in results.items()
    }
    return json.dumps(about | {"networks": networks}, indent=1)


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        if config.decoding:
            from torchcnn.benchmark.decoding import compare

            print(compare(config.rounds))
            return
        device = cli.pick_device(config.device)
        if config.roofline and config.layers == "scratch":
            raise ValueError("--roofline is only for torch's layers; leave out --layers scratch")
        rates = machine_rates(device) if config.roofline else None
        results = {
            arch: measure(config.task(arch), config.layers, config.rounds, rates)
            for arch in config.arch.split(",")
        }
        about: dict[str, object] = {
            "torch": torch.__version__,
            "device": machine(device),
            "rounds": config.rounds,
            "matrix_rate": rates and rates[0],
            "copy_rate": rates and rates[1],
        }
        if config.json:
            print(report_json(results, about))
            return
        print(
            f"torch {about['torch']}, {about['device']}, n = {config.rounds} rounds; "
            "images/s, median, and ratios, median (min to max)"
        )
        if rates:
            print(f"roofline: {rates[0] / 1e9:,.0f} Gflop/s, {rates[1] / 1e9:,.1f} GB/s")
        print("\n" + report(results, config))


def machine(device: torch.device) -> str:
    """Return the name of a GPU, or the type of another device and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
