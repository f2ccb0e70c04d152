"""What all figures share: they never cost a result, are written whole, and show any text."""

import functools
import logging
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchcnn.files import printable, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that tell apart for all readers (Okabe and Ito 2008), the strongest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FONT = "DejaVu Sans"  # which Matplotlib brings with it
NO_CHARACTER = 0xFFFF  # by Unicode; a font that has it has a box for whatever there is


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


def axes_at(figure: "Figure", left: float, bottom: float, width: float, height: float) -> Any:
    """Return axes at a place in inches."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def shown(name: str) -> str:
    """A class name for an axis: at most 24 characters of it."""
    name = printable(name)
    return name if len(name) <= 24 else name[:23] + "…"


def inches(text: str, points: float) -> float:
    """About as wide as a text of a font size is; Chinese characters are as wide as high."""
    ems = sum(1.0 if unicodedata.east_asian_width(c) in "FW" else 0.62 for c in text)
    return ems * points / 72


def text_options(*texts: str) -> dict[str, Any]:
    """How to draw texts: a $ begins no formula, and each character has a font that has it."""
    others = frozenset("".join(map(printable, texts))) - frozenset(map(chr, range(128)))
    return {"parse_math": False, "family": [FONT, *(fonts_for(others) if others else ())]}


@functools.cache
def fonts_for(characters: frozenset[str]) -> tuple[str, ...]:
    """Return as few fonts of the system as have the characters that Matplotlib's own font lacks.

    What a font covers is asked of its file, because systems call one font by different names.
    """
    from matplotlib.font_manager import findfont

    missing = characters - covered(findfont(FONT), characters)
    have: dict[str, frozenset[str]] = {}
    for name, path in installed_fonts() if missing else ():
        have[name] = have.get(name, frozenset()) | covered(path, missing)
        if have[name] == missing:
            break
    chosen: list[str] = []
    while missing & frozenset().union(*have.values()):
        chosen.append(max(have, key=lambda name: len(missing & have[name])))
        missing -= have[chosen[-1]]
    if chosen:  # many have no bold face: the other one will do without a warning
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    return tuple(chosen)


def installed_fonts() -> Iterator[tuple[str, str]]:
    """Return the names and files of the fonts: those that Matplotlib knows, those without serifs
    first, and then those that were installed after it had made its list.
    """
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = sorted(fontManager.ttflist, key=lambda font: "Sans" not in font.name)
    yield from ((font.name, font.fname) for font in known)
    for path in sorted({*findSystemFonts()} - {font.fname for font in known}):
        with suppress(Exception):  # of files that are no fonts
            fontManager.addfont(path)  # all of them, since a font has a file for each weight
    yield from ((font.name, font.fname) for font in fontManager.ttflist[len(known) :])


def covered(path: str, characters: frozenset[str]) -> frozenset[str]:
    """Return those of the characters that the font of a file has, and that can be drawn by it."""
    from matplotlib.font_manager import get_font

    with suppress(Exception):  # it is gone, damaged, or has bitmaps alone
        font = get_font(path)
        if font.get_char_index(NO_CHARACTER):
            return frozenset()
        found = {c for c in characters if font.get_char_index(ord(c))}
        font.set_size(10, 100)
        for character in found:
            font.load_char(ord(character))
        return frozenset(found)
    return frozenset()
