"""Finished runs side by side: those that differ in their seed alone are one row."""

import csv
import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchcnn.run.tensorboard import NO_HYPERPARAMETERS
from torchcnn.system import files_under

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("network", "runs", "epochs", "parameters", "accuracy", "seconds", "differs in")
# What tells rows apart and is not shown under "differs in": columns show it, or another name does.
SHOWN = {"arch", "module", "epochs", "parameters", "split", "options"}


@dataclass(frozen=True)
class FinishedRun:
    """A run that has a result."""

    path: Path
    config: dict[str, Any]
    result: dict[str, Any]
    history: list[dict[str, float]]  # a dict for each epoch, as `history.csv` has them

    @property
    def split(self) -> str:
        """What the accuracy is that of: "test", or "val" if there are no test images."""
        return "test" if "test_acc" in self.result else "val"

    @property
    def accuracy(self) -> float:
        return float(self.result[f"{self.split}_acc"])

    @property
    def seconds(self) -> float:
        """Of training, without the evaluations."""
        return sum(epoch["seconds"] for epoch in self.history)

    @property
    def data(self) -> str:
        """The name of the data set; of a folder with the beginning of its pictures' digest."""
        name, digests = self.config["data"], self.result["digests"]
        if not digests:
            return str(name)
        text = json.dumps(digests, sort_keys=True).encode()
        return f"{Path(name).name}#{hashlib.blake2b(text).hexdigest()[:6]}"

    def setting(self) -> dict[str, Any]:
        """Return what runs of one configuration share: the network, the pictures and the flags.

        The flags are those that were asked for, whatever a machine decided for "auto"; pictures are
        the same wherever they lie.
        """
        asked = self.config | self.result["decided"]
        left_out = {*NO_HYPERPARAMETERS, "seed"}
        flags = {name: value for name, value in asked.items() if name not in left_out}
        data = self.result["digests"] or self.config["data"]
        more = {"data": data, "parameters": self.result["parameters"], "split": self.split}
        return self.result["network"] | flags | more


def eval_split(config: dict[str, Any]) -> str:
    """What a run evaluates on after an epoch: validation images, or the test set if none are."""
    return "val" if config["val_fraction"] else "test"


@dataclass(frozen=True)
class Row:
    """The runs of one configuration, and in what it differs from the others."""

    runs: list[FinishedRun]
    differs: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.runs[0].config["arch"])

    def accuracies(self) -> list[float]:
        return [run.accuracy for run in self.runs]

    def mean_and_std(self) -> tuple[float, float | None]:
        """Return the mean accuracy, and the standard deviation (n - 1) of several runs."""
        values = self.accuracies()
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None

    def cells(self, marked: bool = False) -> list[str]:
        """Return the row of the printed table, in the order of `COLUMNS`.

        If it is `marked`, the accuracy says what it is that of.
        """
        mean, std = self.mean_and_std()
        return [
            self.name,
            str(len(self.runs)),
            str(len(self.runs[0].history)),
            f"{self.runs[0].result['parameters']:,}",
            f"{mean:.4f}"
            + ("" if std is None else f" ± {std:.4f}")
            + f" ({self.runs[0].split})" * marked,
            f"{statistics.mean(run.seconds for run in self.runs):,.1f}",
            describe(self.differs),
        ]

    def as_json(self) -> dict[str, Any]:
        mean, std = self.mean_and_std()
        return {
            "arch": self.name,
            "n": len(self.runs),
            "epochs": len(self.runs[0].history),
            "parameters": self.runs[0].result["parameters"],
            "network": self.runs[0].result["network"],
            "data": self.runs[0].data,
            "split": self.runs[0].split,
            "accuracy": self.accuracies(),
            "mean": mean,
            "std": std,
            "seconds": [run.seconds for run in self.runs],
            "seeds": [run.config["seed"] for run in self.runs],
            "differs": self.differs,
            "runs": [str(run.path) for run in self.runs],
        }

    def repeated(self) -> Iterator[str]:
        """Say which seeds the row has more than once, so that its deviation means less."""
        places: dict[int, list[str]] = {}
        for run in self.runs:
            places.setdefault(run.config["seed"], []).append(str(run.path))
        for seed, paths in places.items():
            if len(paths) > 1:
                yield f"{self.name} has seed {seed} {len(paths)} times: {', '.join(paths)}"


def describe(differs: dict[str, Any]) -> str:
    """Format settings: lr=0.1 optimizer=sgd."""
    return " ".join(f"{name}={value}" for name, value in differs.items())


def find_runs(names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Find the run folders that paths and patterns such as `runs/lenet-*` name, or have in them.

    A run that several of them name, perhaps through a link, is found once.

    Returns:
        those with a result, and those that have none, since they are not finished.

    Raises:
        FileNotFoundError: a path has none, or a pattern matches nothing.
    """
    found: dict[Path, Path] = {}  # by where it is, as it was named first
    for name in names:
        path = Path(name).expanduser()
        pattern = path.relative_to(path.anchor).as_posix()
        places = [path] if path.exists() else sorted(Path(path.anchor or ".").glob(pattern))
        runs = [run for place in places for run in run_folders(place)]
        if not runs:
            raise FileNotFoundError(f"there is no run in {name}")
        for run in runs:
            found.setdefault(run.resolve(), run)
    finished = [run for run in found.values() if (run / "result.json").exists()]
    return finished, [run for run in found.values() if run not in set(finished)]


def run_folders(place: Path) -> Iterator[Path]:
    """The folder itself if it is a run's, or those of the runs below it."""
    if (place / "config.json").exists():
        yield place
    elif place.is_dir():
        yield from sorted(p.parent for p in files_under(place) if p.name == "config.json")


def read_run(path: Path) -> FinishedRun:
    """Read a finished run's configuration, result and history.

    Raises:
        ValueError: they are damaged.
    """
    try:
        config = json.loads((path / "config.json").read_text())
        result = json.loads((path / "result.json").read_text())
        with open(path / "history.csv", newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        run = FinishedRun(path, config, result, rows)
        curves = [(epoch[f"{eval_split(config)}_acc"], epoch["train_loss"]) for epoch in rows]
        assert len(curves) == config["epochs"] and 0 <= run.accuracy <= 1 and run.seconds >= 0
        assert isinstance(config["arch"], str) and isinstance(config["seed"], int)
        assert isinstance(result["parameters"], int) and run.setting() and run.data
    except (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path} is not a run, or is damaged ({type(error).__name__})") from error
    return run


def group(runs: Sequence[FinishedRun]) -> list[Row]:
    """Make a row of all runs that differ in their seed alone, the most accurate row first."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.setting(), sort_keys=True), []).append(run)
    settings = [rows[0].setting() for rows in groups.values()]
    names = dict.fromkeys(name for setting in settings for name in setting)
    differing = [
        name
        for name in names
        if name not in SHOWN and any(s.get(name) != settings[0].get(name) for s in settings)
    ]
    rows = [
        Row(members, {name: shown[name] for name in differing if name in shown})
        for members, setting in zip(groups.values(), settings, strict=True)
        for shown in [setting | {"data": members[0].data}]
    ]
    return sorted(rows, key=lambda row: row.mean_and_std()[0], reverse=True)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return the printed table, whose head says of which images the accuracy is."""
    splits = sorted({row.runs[0].split for row in rows})
    head = [name.replace("accuracy", f"{' / '.join(splits)} accuracy") for name in COLUMNS]
    return [head, *(row.cells(marked=len(splits) > 1) for row in rows)]


def as_markdown(rows: Sequence[Row]) -> str:
    """Format the rows as a table in Markdown."""
    head, *body = cells(rows)
    lines = [head, ["---", *["---:"] * 5, "---"], *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot_rows(rows: Sequence[Row]) -> "Figure":
    """Plot a curve for each row: the mean over its runs, with a band of the standard deviation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for i, row in enumerate(rows):
        split = eval_split(row.runs[0].config)
        label = " ".join(filter(None, (row.name, describe(row.differs))))
        for axes, key in ((loss_axes, "train_loss"), (accuracy_axes, f"{split}_acc")):
            columns = list(zip(*([epoch[key] for epoch in r.history] for r in row.runs)))  # noqa: B905
            epochs = range(1, len(columns) + 1)
            means = [statistics.mean(values) for values in columns]
            axes.plot(epochs, means, "o-", color=f"C{i}", markersize=3, label=label)
            if len(row.runs) > 1:
                spreads = [statistics.stdev(values) for values in columns]
                low, high = (
                    [m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1)
                )
                axes.fill_between(epochs, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
    splits = {eval_split(row.runs[0].config) for row in rows}
    loss_axes.set(xlabel="epoch", ylabel="training loss")
    accuracy_axes.set(xlabel="epoch", ylabel=f"{' / '.join(sorted(splits))} accuracy")
    longest = max(len(run.history) for row in rows for run in row.runs)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlim(0.5, longest + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    accuracy_axes.legend(fontsize=8)
    return figure
