"""The command that measures training speed: `python -m torchcnn.benchmark --arch lenet`.

It trains the same network on the same images in several ways, in turn; see `ways`. The speed of a
machine varies from minute to minute, so the ratios of speeds, which are computed for each round,
are more reliable than the speeds. With `--to-accuracy` it trains to the end, and compares the
seconds until an accuracy is reached; see `accuracy`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.files import plural
from torchcnn.models.registry import find_model
from torchcnn.names import DATASETS
from torchcnn.training.config import archs
from torchcnn.training.recipes import source

if TYPE_CHECKING:
    from torchcnn.benchmark.ways import Task

PROG = "python -m torchcnn.benchmark"
IMAGES = 10_000


@dataclass(kw_only=True)
class Config:
    """Compare the speed of training with that of the tutorial's loop and with a bound."""

    arch: str = option("networks, separated by commas", default="lenet", type=archs)
    data: str = option("images to train on", default="auto", choices=tuple(DATASETS))
    root: str = option("folder of the data sets", default="data")
    device: str = option("auto, cpu, cuda, cuda:1, mps", default="auto")
    versus: str = option(
        "compare with the tutorial's loop, or with Keras's model.fit",
        default="tutorial",
        choices=("tutorial", "keras"),
    )
    layers: str = option(
        "scratch: compare the hand-written layers with torch's instead",
        default="torch",
        choices=("torch", "scratch"),
    )
    images: int = option(
        f"largest number of images per epoch (default: {IMAGES}, with --to-accuracy all)",
        default=0,
        type=cli.at_least_one,
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
    to_accuracy: bool = option(
        "train to the end, and compare the seconds until the test accuracy with which the "
        "tutorial's way ends; --batch-size, --input-size and --small-input are for that way alone",
        default=False,
        action="store_true",
    )
    seeds: int = option(
        "runs of each way for --to-accuracy, from the seeds 0, 1, ...",
        default=3,
        type=cli.at_least_one,
    )
    rounds: int = option(
        "measured rounds, after one warm-up round", default=7, type=cli.at_least_one
    )
    json: bool = option("print all rounds as JSON", default=False, action="store_true")

    def task(self, arch: str) -> Task:
        """Return the task for one of the networks, with its recipe's settings as defaults."""
        from torchcnn.benchmark.ways import Task

        recipe = source(arch)
        return Task(
            arch=arch,
            data=self.data,
            root=self.root,
            device=cli.pick_device(self.device),
            images=self.images or (0 if self.to_accuracy else IMAGES),
            batch_size=self.batch_size or recipe["batch_size"],
            input_size=self.input_size or recipe["input_size"],
            small_input=self.small_input,
        )


def check(config: Config, given: Iterable[str]) -> None:
    """Check that the flags that were given belong together.

    Raises:
        ValueError: If one of them has no effect beside another.
    """
    for arch in cli.names()(config.arch):
        find_model(arch)
    if config.to_accuracy:
        useless = {"versus", "layers", "rounds"}.intersection(given)
        if useless:
            names = ", ".join(map(cli.flag, sorted(useless)))
            raise ValueError(f"--to-accuracy does not take {names}")
    elif "seeds" in given:
        raise ValueError("--seeds is only for --to-accuracy")
    if config.layers == "scratch" and config.versus != "tutorial":
        raise ValueError(
            f"--layers scratch and --versus {config.versus} are two comparisons; leave out one of "
            "them"
        )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        given = cli.parse(Config, PROG, argv)
        config = Config(**given)
        check(config, given)
        print(compare_accuracy(config) if config.to_accuracy else compare_speed(config))


def compare_speed(config: Config) -> str:
    """Measure the speed of every way, and return the report."""
    from torchcnn.benchmark import machine, speed, versus

    device = cli.pick_device(config.device)
    versions = versus.versions() if config.versus == "keras" else {}
    comparison = "scratch" if config.layers == "scratch" else config.versus
    if comparison == "tutorial" and device.type == "cuda":
        comparison = "cuda"
    results = {}
    for arch in config.arch.split(","):
        task = config.task(arch)
        results[arch] = task, speed.measure(task, comparison, config.rounds)
    about = machine.about(device, versions)
    if config.json:
        networks = {arch: measured._asdict() for arch, (_, measured) in results.items()}
        return json.dumps(about | {"rounds": config.rounds, "networks": networks}, indent=1)
    head = (
        f"{machine.head(about)}, n = {plural(config.rounds, 'round')}; "
        "images/s, median, and ratios, median (min to max)"
    )
    return "\n".join([head, "", speed.report(results, comparison)])


def compare_accuracy(config: Config) -> str:
    """Measure how long each way trains until the same accuracy, and return the report."""
    from torchcnn.benchmark import accuracy, machine
    from torchcnn.train import train

    device = cli.pick_device(config.device)
    results = {
        arch: accuracy.compare(config.task(arch), config.seeds, train)
        for arch in config.arch.split(",")
    }
    about = machine.about(device, {})
    if config.json:
        return json.dumps(about | {"seeds": config.seeds, "networks": results}, indent=1)
    lines = [
        f"{machine.head(about)}, n = {plural(config.seeds, 'seed')}",
        "target: the test accuracy with which the tutorial's way ends, mean; seconds of training "
        "until then, mean, and of fast until it first has that accuracy, for each seed; ratios of "
        "the seconds, median (min to max)",
    ]
    return "\n".join([*lines, "", accuracy.report(results)])


if __name__ == "__main__":
    main()
