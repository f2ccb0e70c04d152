"""What a picture and a class are on every system: a picture its bytes, a class its name as text."""

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torchcnn.system import cores, is_visible


class Picture(NamedTuple):
    """A file. Its number follows from its bytes alone, and gives pictures their order."""

    id: int  # 64 bits
    path: Path


Part = dict[str, list[Picture]]  # the pictures of each class, by its name


def identify(paths: Sequence[Path]) -> list[Picture]:
    """Read files, and return them in an order that neither names nor places change."""
    with ThreadPoolExecutor(cores()) as pool:
        return sorted(pool.map(_identify, paths))


def _identify(path: Path) -> Picture:
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).digest()
    return Picture(int.from_bytes(digest, "big", signed=True), path)


def pictures_of(part: Part) -> list[Picture]:
    """All pictures of a part, class by class."""
    return [picture for pictures in part.values() for picture in pictures]


def digest(part: Part) -> str:
    """A digest of the pictures of each class, which tells whether they are the same."""
    known = [(name, picture.id) for name, pictures in part.items() for picture in pictures]
    return hashlib.blake2b(ascii(known).encode(), digest_size=16).hexdigest()


def readable(name: str) -> str:
    """Return the name of a file as the same text on every system.

    An accent is a character of its own in names from macOS, and bytes that are no UTF-8 are no text
    anywhere else. How a system decodes names depends on its locale, their bytes do not.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode(errors="replace"))


def class_name(folder: str) -> str:
    """Return the name of a folder's class: dots and blanks at its end are dropped by Windows."""
    text = readable(folder)
    return text.rstrip(". ") or text


def class_folders(folder: Path) -> dict[str, Path]:
    """Find the visible folders in a folder by the names of classes, in the order of code points.

    Raises:
        ValueError: two have the same name.
    """
    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if path.is_dir() and is_visible(path.name):
            name = class_name(path.name)
            if name in found:
                two = " and ".join(sorted(ascii(p.name) for p in (path, found[name])))
                raise ValueError(
                    f"{folder} holds {two}, which are one name on other systems; rename one"
                )
            found[name] = path
    return dict(sorted(found.items()))


def copies_text(count: int, total: int, images: str) -> str:
    """Say how many images were trained on."""
    return (
        f"{count:,} of {total:,} {images} {'is' if count == 1 else 'are'} also among the training "
        "images, byte for byte"
    )
