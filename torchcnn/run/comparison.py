"""Finished runs side by side: those that differ in their seed alone are one row."""

import csv
import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchcnn.figures.draw import COLOURS
from torchcnn.run.tensorboard import NO_HYPERPARAMETERS
from torchcnn.system import files_under

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("network", "runs", "epochs", "parameters", "accuracy", "seconds", "differs in")
# What tells rows apart and is not shown under "differs in": columns show it, or another name does.
SHOWN = {"arch", "epochs", "parameters", "split", "options"}


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

    def settings(self) -> dict[str, Any]:
        """In what it may differ from the other rows of the same network."""
        return self.differs | {"epochs": max(len(run.history) for run in self.runs)}

    def accuracies(self) -> list[float]:
        return [run.accuracy for run in self.runs]

    def mean_and_std(self) -> tuple[float, float | None]:
        """Return the mean accuracy, and the standard deviation (n - 1) of several runs."""
        values = self.accuracies()
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None

    def score(self) -> str:
        """Return the accuracy as text: 0.8400 ± 0.0529."""
        mean, std = self.mean_and_std()
        return f"{mean:.4f}" + ("" if std is None else f" ± {std:.4f}")

    def cells(self, marked: bool = False) -> list[str]:
        """Return the row of the printed table, in the order of `COLUMNS`.

        If it is `marked`, the accuracy says what it is that of.
        """
        return [
            self.name,
            str(len(self.runs)),
            str(len(self.runs[0].history)),
            f"{self.runs[0].result['parameters']:,}",
            self.score() + f" ({self.runs[0].split})" * marked,
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
    """Read a finished run's configuration, result and history; a ValueError says it is damaged."""
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
        least = 1 if config["patience"] else config["epochs"]
        assert least <= len(curves) <= config["epochs"]
        assert 0 <= run.accuracy <= 1 and run.seconds >= 0
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


def labels(rows: Sequence[Row]) -> list[str]:
    """Return a short name for each row: the network, and what tells it from others of the name."""
    found = []
    for row in rows:
        others = [other.settings() for other in rows if other.name == row.name]
        telling = {
            name: value
            for name, value in row.settings().items()
            if any(settings.get(name) != value for settings in others)
        }
        label = " ".join(filter(None, (row.name, describe(telling))))
        found.append(label if len(label) <= 40 else label[:39] + "…")
    return found


def plot_rows(rows: Sequence[Row]) -> "Figure":
    """Plot curves for each row: the mean over its runs, with a band of the standard deviation.

    A single epoch is a point with an error bar, and the accuracy that a table has is a diamond at
    the end.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns, longest = 3, max(len(run.history) for row in rows for run in row.runs)
    figure = Figure(figsize=(11, 4.2 + 0.25 * -(-len(rows) // columns)), layout="constrained")
    loss_axes, accuracy_axes = both = figure.subplots(1, 2)
    for i, (row, label) in enumerate(zip(rows, labels(rows), strict=True)):
        split = eval_split(row.runs[0].config)
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)]}
        style |= {"linestyle": ("-", "--", ":", "-.")[i // len(COLOURS) % 4]}
        mean, std = row.mean_and_std()
        plot_mean(loss_axes, row, "train_loss", style)
        plot_mean(accuracy_axes, row, f"{split}_acc", style)
        # Rows beside each other, so that no error bar hides another.
        end = longest + 0.5 + 0.04 * longest * (i + 1)
        accuracy_axes.errorbar(end, mean, std, fmt="D", markersize=5, capsize=3,
                               label=f"{label}, {row.score()}", color=style["color"])  # fmt: skip
    splits = sorted({eval_split(row.runs[0].config) for row in rows})
    tested = sorted({row.runs[0].split for row in rows})
    loss_axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    accuracy_axes.set(xlabel="epoch", ylabel=f"{' / '.join(splits)} accuracy")
    low, high = accuracy_axes.get_ylim()
    accuracy_axes.set_ylim(max(low, 0), min(high, 1))
    accuracy_axes.axvline(longest + 0.5, color="0.8", linewidth=1)
    accuracy_axes.text(longest + 0.55, accuracy_axes.get_ylim()[1], " / ".join(tested), va="top")
    loss_axes.set_xlim(0.5, longest + 0.5)
    accuracy_axes.set_xlim(0.5, longest + 0.5 + 0.04 * longest * (len(rows) + 1))
    for axes in both:
        ticks = MaxNLocator(integer=True).tick_values(1, longest)
        axes.set_xticks([tick for tick in ticks if 1 <= tick <= longest])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*accuracy_axes.get_legend_handles_labels(), loc="outside lower center",
                  ncols=columns, frameon=False)  # fmt: skip
    return figure


def plot_mean(axes: Any, row: Row, key: str, style: dict[str, Any]) -> None:
    """Plot a column of the histories of a row: its mean, and a band of its standard deviation."""
    import numpy as np

    longest = max(len(run.history) for run in row.runs)
    columns = [[run.history[i][key] for run in row.runs if i < len(run.history)]
               for i in range(longest)]  # fmt: skip
    epochs, means = range(1, longest + 1), np.array([statistics.mean(v) for v in columns])
    spreads = np.array([statistics.stdev(v) if len(v) > 1 else 0.0 for v in columns])
    if longest == 1:
        axes.errorbar(
            epochs, means, spreads, fmt="o", markersize=5, capsize=3, color=style["color"]
        )
        return
    axes.plot(epochs, means, "o", markersize=3, **style)
    if len(row.runs) > 1:
        low, high = means - spreads, means + spreads
        edges = low.clip(min=0), high.clip(max=1 if key.endswith("acc") else high.max())
        axes.fill_between(epochs, *edges, color=style["color"], alpha=0.15, linewidth=0)
