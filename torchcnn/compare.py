"""Runs side by side: `python -m torchcnn.compare runs/lenet-* runs/mlp-*`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.run.comparison import (
    COLUMNS,
    as_markdown,
    describe,
    find_runs,
    group,
    plot_rows,
    read_run,
)
from torchcnn.run.drawing import drawing, save_figure
from torchcnn.text import table

PROG = "python -m torchcnn.compare"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Compare finished runs: a row for each configuration, with the mean over its seeds.

    The accuracy is that on the test images, or on the validation images if there are no others, as
    result.json has it, with the standard deviation (n - 1) of several runs; the seconds are those
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
    finished, unfinished = find_runs(config.runs)
    for path in unfinished:
        print(f"note: {path} is not finished, and left out", file=sys.stderr)
    if not finished:
        raise ValueError("none of these runs is finished")
    rows = group([read_run(path) for path in finished])
    if config.json:
        print(json.dumps([row.as_json() for row in rows], indent=1))
    elif config.markdown:
        print(as_markdown(rows))
    else:
        print(table([list(COLUMNS), *(row.cells() for row in rows)], left={0, len(COLUMNS) - 1}))
        common = {name: rows[0].runs[0].config[name] for name in ("data", "recipe", "val_fraction")}
        same = {name: value for name, value in common.items() if name not in rows[0].differs}
        print(f"\nfor all of them {describe(same)}")
    if config.out:
        with drawing(config.out):
            save_figure(plot_rows(rows), Path(config.out).expanduser())
            if not (config.json or config.markdown):
                print(f"{config.out} is drawn")


if __name__ == "__main__":
    main()
