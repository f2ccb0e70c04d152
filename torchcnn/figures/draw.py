"""What all figures share: they never cost a result, are written whole, and show any text."""

import functools
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchcnn.files import printable, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that tell apart for all readers (Okabe and Ito 2008), the strongest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# A font for each script that class names may have; what none of them has is an empty box.
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "SimHei", "Arial Unicode MS"]


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
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:])


def shown(name: str) -> str:
    """A class name for an axis: at most 24 characters of it."""
    name = printable(name)
    return name if len(name) <= 24 else name[:23] + "…"


def text_options() -> dict[str, Any]:
    """Text is text: a $ begins no formula."""
    return {"parse_math": False, "family": installed_fonts()}


@functools.cache
def installed_fonts() -> list[str]:
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return [name for name in FONTS if name in installed]
