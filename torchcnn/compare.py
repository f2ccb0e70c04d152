"""Runs side by side: `python -m torchcnn.compare runs/lenet-* runs/mlp-*`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.figures.draw import drawing, save_figure
from torchcnn.files import table
from torchcnn.pictures import try_each

PROG = "python -m torchcnn.compare"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Compare finished runs: a row for each configuration, with the mean over its seeds.

    The accuracy is that on the test images, as result.json has it, or on the validation images if
    there are no others, with the standard deviation (n - 1) of several runs; the seconds are those
    of training.
    """

    runs: tuple[str, ...] = option(
        "run folders, folders of them, or patterns such as 'runs/lenet-*'",
        positional=True,
        nargs="+",
        metavar="RUN",
        type=cli.path,
    )
    markdown: bool = option("print a table in Markdown", default=False, action="store_true")
    json: bool = option("print JSON", default=False, action="store_true")
    out: str = option(
        "draw the curves into this .png, with a band of the standard deviation over the seeds",
        default="",
        type=cli.path,
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        compare(Config(**cli.parse(Config, PROG, argv)))


def compare(config: Config) -> None:
    if config.out and Path(config.out).suffix != ".png":
        raise ValueError(f"--out draws a .png, got {config.out}")
    if config.json and config.markdown:
        raise ValueError("got --json and --markdown, allowed is one of them")
    from torchcnn.run import comparison

    finished, unfinished = comparison.find_runs(config.runs)
    for path in unfinished:
        print(f"note: {path} is not finished, and left out", file=sys.stderr)
    if not finished:
        raise ValueError("none of these runs is finished")
    runs, damaged = try_each(finished, comparison.read_run)
    if not runs:
        cli.refuse(PROG, damaged)
    rows = comparison.group(runs)
    for row in rows:
        for text in row.repeated():
            print(f"note: {text}", file=sys.stderr)
    if config.json:
        print(json.dumps([row.as_json() for row in rows], indent=1))
    elif config.markdown:
        print(comparison.as_markdown(rows))
    else:
        print(table(comparison.cells(rows), left={0, len(comparison.COLUMNS) - 1}))
        first = rows[0].runs[0]
        common = first.setting() | {"data": first.data}
        names = [n for n in ("data", "recipe", "val_fraction") if n not in rows[0].differs]
        same = {name: common[name] for name in names if name in common}
        print(f"\nfor all of them {comparison.describe(same)}")
    if config.out:
        with drawing(config.out):
            save_figure(comparison.plot_rows(rows), Path(config.out).expanduser())
            if not (config.json or config.markdown):
                print(f"{config.out} is drawn")
    if damaged:
        raise ValueError(f"left out: {'; '.join(damaged)}")


if __name__ == "__main__":
    main()
