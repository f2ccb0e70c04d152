"""Your own pictures: a folder with one folder of pictures for each class."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchcnn.data.datasets import DATASETS, ImageData, load_data
from torchcnn.data.decode import (
    LazyImages,
    decode_all,
    exif_unwatched,
    extensions,
    is_visible,
    open_image,
)
from torchcnn.data.split import is_for_test, is_for_test_by_seed
from torchcnn.system import free_memory

PARTS = {  # what folders of parts are called, in any case
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
GREY = ("1", "L", "F", "I")  # Pillow's modes of one channel; 16 bits are I;16

Part = dict[str, list[Path]]  # the pictures of each class


@dataclass
class Passed:
    """What is passed over in a folder, to be said."""

    files: Counter[str] = field(default_factory=Counter)  # by kind
    folders: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = [f"{count} {kind}" for kind, count in self.files.most_common(4)]
        text = f"; passed over {self.files.total():,} files ({', '.join(kinds)})" if kinds else ""
        return text + (f"; passed over the folders {', '.join(self.folders)}" * bool(self.folders))


@dataclass(frozen=True)
class FolderOptions:
    """How the pictures of a folder become images."""

    size: int  # pixels a side
    resize: str = "squeeze"  # or "crop", see `read_image`
    max_bytes: float = math.inf  # that decoded images may take; else they are decoded in every pass
    seed: int | None = None  # of the split of a run of version 3; otherwise names decide


def load_images(
    name: str, root: str | Path, device: torch.device, options: FolderOptions
) -> ImageData:
    """Return a data set by its name, as `load_data` does, or a folder, as `load_folder` does."""
    if name in DATASETS:
        return load_data(name, root)
    return load_folder(Path(name), replace(options, max_bytes=free_memory(device) // 4))


@exif_unwatched()
def load_folder(root: Path, options: FolderOptions) -> ImageData:
    """Read a folder of pictures: `train/<class>/*` with val and test beside it, or `<class>/*`.

    Without parts, a fifth of each class is chosen to test on, by the names of the pictures. What is
    hidden, what belongs to the operating system and what is no regular file is passed over. The
    images are grey if all pictures are, else in colour.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no classes, a class has no pictures, a class is tested and not
            trained, or a picture cannot be decoded; the message names it.
    """
    passed = Passed()
    parts = find_parts(root, options, passed)
    classes = list(parts["train"])
    every = [path for part in parts.values() for paths in part.values() for path in paths]
    grey = all(open_image(path, _is_grey) for path in every)
    channels = 1 if grey else 3
    lazy = {
        name: LazyImages(_paths(parts.get(name, {})), channels, options.size, options.resize)
        for name in ("train", "val", "test")
    }
    in_memory = len(every) * channels * options.size**2 <= options.max_bytes
    images: dict[str, Any] = (
        {name: decode_all(x) for name, x in lazy.items()} if in_memory else lazy
    )
    labels = {name: _labels(parts.get(name, {}), classes) for name in lazy}
    note = ", ".join(f"{len(y):,} to {_USE[name]}" for name, y in labels.items() if len(y))
    note = f"images: {note}, of {len(classes)} classes"
    if not len(labels["test"]):
        note += "; there is no test part"
    if not in_memory:
        room = f"{options.max_bytes / 2**30:.1f} GiB"
        note += f"; decoded in every pass, since memory holds {room} of images"
    has_val = "val" in parts
    return ImageData(
        name=str(root),
        classes=tuple(classes),
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        note=note + str(passed),
        val_images=images["val"] if has_val else None,
        val_labels=labels["val"] if has_val else None,
        names={
            name: [str(path.relative_to(root)) for path in _paths(part)]
            for name, part in parts.items()
        },
        digests={name: _digest(root, _paths(part)) for name, part in parts.items()},
    )


_USE = {"train": "train", "val": "validate", "test": "test"}


def find_parts(root: Path, options: FolderOptions, passed: Passed) -> dict[str, Part]:
    """Find the pictures to train on, to validate on and to test on, as far as there are parts."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; if its pictures are elsewhere now, --data says where"
        )
    folders = _visible_folders(root)
    named: dict[str, Path] = {}
    for path in folders:
        use = PARTS.get(path.name.lower())
        if use and _visible_folders(path):
            if use in named:
                raise ValueError(f"{root} holds {named[use].name} and {path.name}; keep one")
            named[use] = path
    if not named:
        _check_no_parts(root, folders)
        return _split(root, find_pictures(root, passed), options)
    if "train" not in named or len(named) == 1:
        here = ", ".join(f"{path.name}/<class>/*" for path in named.values())
        raise ValueError(
            f"{root} holds {here}; there must be train/<class>/* and beside it test or val, or "
            "<class>/* alone, of which a fifth is chosen to test on"
        )
    passed.folders += [path.name for path in folders if path not in named.values()]
    parts = {name: find_pictures(named[name], passed) for name in _USE if name in named}
    for name, part in parts.items():
        if unknown := ", ".join(sorted(part.keys() - parts["train"].keys())):
            raise ValueError(f"{named[name]} holds {unknown}, which {named['train']} does not")
    return parts


def _check_no_parts(root: Path, folders: list[Path]) -> None:
    """Refuse folders that look like parts under names that are not known."""
    inner = [{path.name for path in _visible_folders(folder)} for folder in folders]
    only_folders = not any(path.is_file() for folder in folders for path in folder.iterdir())
    alike = len(folders) > 1 and len(inner[0]) > 1 and inner.count(inner[0]) == len(inner)
    if alike and only_folders:
        names, classes = ", ".join(p.name for p in folders), ", ".join(sorted(inner[0]))
        raise ValueError(
            f"{root} holds {names}, each with only the folders {classes}: if these are the "
            "classes, call the outer folders train, val and test"
        )


def _split(root: Path, pictures: Part, options: FolderOptions) -> dict[str, Part]:
    """Choose a part of each class to test on."""
    parts: dict[str, Part] = {"train": {}, "test": {}}
    for i, (name, paths) in enumerate(pictures.items()):
        if len(paths) < 2:
            raise ValueError(f"{root / name} holds one picture; at least 2 are needed")
        names = [str(path.relative_to(root)) for path in paths]
        chosen = is_for_test(names)
        if options.seed is not None:
            chosen = is_for_test_by_seed(names, options.seed, i)
        pairs = list(zip(paths, chosen, strict=True))
        parts["train"][name] = [path for path, test in pairs if not test]
        parts["test"][name] = [path for path, test in pairs if test]
    return parts


def find_pictures(folder: Path, passed: Passed) -> Part:
    """Find the pictures of every class, at any depth, sorted by name.

    Raises:
        ValueError: there are fewer than two classes, or one has no pictures.
    """
    found = {place.name: _pictures_under(place, passed) for place in _visible_folders(folder)}
    if empty := ", ".join(name for name, paths in found.items() if not paths):
        known = " ".join(sorted(extensions()))
        raise ValueError(f"{folder} holds no pictures in {empty}; pictures end in {known}")
    if len(found) < 2:
        raise ValueError(
            f"{folder} holds {len(found)} folders of pictures; there must be one for each class, "
            "2 or more"
        )
    return found


def _pictures_under(place: Path, passed: Passed) -> list[Path]:
    found, seen = [], set()
    for here, folders, files in os.walk(place, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if is_visible(name)]
        for path in (Path(here) / name for name in files):
            if not is_visible(path.name):
                passed.files["hidden"] += 1
            elif not path.is_file():  # a pipe, a socket, a link to nothing
                passed.files["no regular file"] += 1
            elif path.suffix.lower() not in extensions():
                passed.files[path.suffix.lower() or "without extension"] += 1
            else:
                found.append(path)
    return sorted(found)


def _visible_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and is_visible(path.name)]


def _is_grey(image: Any) -> bool:
    return image.mode.split(";")[0] in GREY


def _paths(part: Part) -> list[Path]:
    return [path for paths in part.values() for path in paths]


def _labels(part: Part, classes: Sequence[str]) -> Tensor:
    labels = [classes.index(name) for name, paths in part.items() for _ in paths]
    return torch.tensor(labels, dtype=torch.int64)


def _digest(root: Path, paths: list[Path]) -> str:
    """A digest of the names and sizes of pictures, which tells whether they are the same."""
    known = [(str(path.relative_to(root)), path.stat().st_size) for path in paths]
    return hashlib.blake2b(ascii(sorted(known)).encode(), digest_size=16).hexdigest()
