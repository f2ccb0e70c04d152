"""The comparison of speeds: every way trains in every round, and the ratios are of each round."""

import random
import statistics
from contextlib import ExitStack
from typing import NamedTuple

from torchcnn.benchmark.versus import open_keras
from torchcnn.benchmark.ways import RATIOS, WAYS, Task, make_way
from torchcnn.files import table
from torchcnn.system import keep_freed_memory
from torchcnn.training.device import device_settings


class Measured(NamedTuple):
    """The results for one network, as `--json` prints them."""

    images_per_second: dict[str, list[float]]  # in each round, by way
    chose: dict[str, str]  # what a way chose itself, by way; most choose nothing


def measure(task: Task, comparison: str, rounds: int) -> Measured:
    """Measure every way in every round, after one warm-up round.

    Within a round the order is random, because a way may influence the speed of the next one.

    Args:
        comparison: A key of `WAYS`.
    """
    with ExitStack() as processes:
        if comparison == "keras" or task.device.type == "cuda":
            # This process then trains as `torchcnn.train` does. On a GPU so does the tutorial's
            # loop: it is compared as a loop, not by the precision of its linear layers.
            keep_freed_memory()
            processes.enter_context(device_settings(task.device, deterministic=False))
        ways = {
            way: processes.enter_context(open_keras(task))
            if way == "keras"
            else make_way(way, task)
            for way in WAYS[comparison]
        }
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for round in range(rounds + 1):
            for way in random.Random(round).sample(list(ways), len(ways)):
                images, seconds = ways[way].train_epoch()
                if round:
                    speeds[way].append(images / seconds)
    return Measured(speeds, {name: way.chose for name, way in ways.items() if way.chose})


def spread(values: list[float]) -> str:
    """Format values as their median, minimum and maximum: "0.98 (0.95 to 1.02)"."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def report(results: dict[str, tuple[Task, Measured]], comparison: str) -> str:
    """Format the results as a table with a row for each network: images/s and ratios."""
    ways, ratios = WAYS[comparison], RATIOS[comparison]
    choosing = list(next(iter(results.values()))[1].chose)
    head = ["", "batch", "pixels", *ways, *(f"{a} / {b}" for a, b in ratios)]
    text = range(len(head), len(head) + len(choosing))
    rows = [head + [f"{way} chose" for way in choosing]]
    for arch, (task, measured) in results.items():
        speeds, chose = measured
        row = [arch, str(task.batch_size), str(task.input_size)]
        row += [f"{statistics.median(speeds[way]):,.0f}" for way in ways]
        for way, other in ratios:
            pairs = zip(speeds[way], speeds[other], strict=True)
            row.append(spread([a / b for a, b in pairs]))
        rows.append(row + [chose[way] for way in choosing])
    return table(rows, left={0, *text})
