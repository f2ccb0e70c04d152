"""Drawing never costs a result: whatever fails in it is one line of warning."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Turn an error into a warning on stderr; do not warn of characters that no font has."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ ")
            yield
    except Exception as error:
        text = " ".join(str(error).split())
        print(
            f"warning: {what} could not be drawn ({type(error).__name__}: {text})", file=sys.stderr
        )


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
