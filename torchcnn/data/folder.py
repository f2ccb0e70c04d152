"""Your own pictures: a folder with one folder of pictures for each class, or a list of them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchcnn.data.datasets import DATASETS, ImageData, in_channels, load_data
from torchcnn.data.decode import (
    LazyImages,
    decode_all,
    extensions,
    open_image,
    pictures_under,
    pillow_quiet,
)
from torchcnn.data.identity import Part, class_folders, digest, identify, pictures_of, readable
from torchcnn.data.listing import SPLITS, is_listing, read_listing
from torchcnn.data.split import is_for_test
from torchcnn.files import plural
from torchcnn.system import free_memory

GREY = ("1", "L", "LA", "La", "F", "I")  # Pillow's modes of grey; 16 bits are I;16


@dataclass
class Passed:
    """What is passed over in a folder, to be said."""

    files: Counter[str] = field(default_factory=Counter)  # by kind
    folders: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.files.most_common(4))
        text = f"; passed over {plural(self.files.total(), 'file')} ({kinds})" if kinds else ""
        s = "s" * (len(self.folders) > 1)
        return text + f"; passed over the folder{s} {', '.join(self.folders)}" * bool(self.folders)


@dataclass(frozen=True)
class FolderOptions:
    """How the pictures of a folder become images."""

    size: int  # pixels a side
    resize: str = "squeeze"  # or "crop" and others, see `read_image`
    channels: int | None = None  # 1 or 3; if not given, 1 if all pictures are grey, else 3
    max_bytes: float = math.inf  # that decoded images may take; else they are decoded in every pass


def load_images(
    name: str, root: str | Path, device: torch.device, options: FolderOptions
) -> ImageData:
    """Return a data set by its name, as `load_data` does, or a folder, as `load_folder` does.

    Of the options, those for the channels count for both.
    """
    if name in DATASETS:
        data = load_data(name, root)
        if Path(name).is_dir():
            data = replace(data, note=f"{data.note}; the folder of this name is ./{name}")
        return in_channels(data, options.channels) if options.channels else data
    return load_folder(Path(name), replace(options, max_bytes=free_memory(device) // 4))


def load_folder(root: Path, options: FolderOptions) -> ImageData:
    """Read a folder of pictures: `train/<class>/*` with val and test beside it, or `<class>/*`.

    Or read a list, a CSV file, see `torchcnn.data.listing.read_listing`.

    Without parts, a fifth of each class is chosen to test on, by the bytes of the pictures. What is
    hidden, what belongs to the operating system and what is no regular file is passed over. The
    images are grey if all pictures are, else in colour, unless the options say what they are. Their
    order follows from their bytes, that of the classes from their names.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no classes, a class has no pictures, a class is tested and not
            trained, or a picture cannot be decoded; the message names it.
    """
    passed = Passed()
    parts = find_parts(root, passed)
    data = decode_parts(root, parts, list(parts["train"]), options)
    counts = ", ".join(f"{len(data.names[name]):,} to {USE[name]}" for name in parts)
    note = f"images: {counts}, of {len(data.classes)} classes"
    note += "; there is no test part" * ("test" not in parts)
    return replace(data, note=f"{note}{data.note}{passed}")


@pillow_quiet()
def decode_parts(
    root: Path, parts: dict[str, Part], classes: Sequence[str], options: FolderOptions
) -> ImageData:
    """Decode the pictures of the parts that there are; the labels are places among the classes.

    Raises:
        ValueError: a picture cannot be decoded; the message names it.
    """
    found = {name: pictures_of(parts.get(name, {})) for name in USE}
    paths = {name: [picture.path for picture in pictures] for name, pictures in found.items()}
    every = [path for of_part in paths.values() for path in of_part]
    modes = (open_image(path, lambda image: image.mode.split(";")[0]) for path in every)
    channels = options.channels or (1 if all(mode in GREY for mode in modes) else 3)
    images: dict[str, Any] = {
        name: LazyImages(of_part, channels, options.size, options.resize)
        for name, of_part in paths.items()
    }
    note = ""
    if len(every) * channels * options.size**2 <= options.max_bytes:
        images = {name: decode_all(lazy) for name, lazy in images.items()}
    else:
        room = f"{options.max_bytes / 2**30:.1f} GiB"
        note = f"; decoded in every pass, since memory holds {room} of images"
    labels = {name: _labels(parts.get(name, {}), classes) for name in USE}
    return ImageData(
        name=str(root),
        classes=tuple(classes),
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        note=note,
        val_images=images["val"] if "val" in parts else None,
        val_labels=labels["val"] if "val" in parts else None,
        names={name: [_shown(root, path) for path in paths[name]] for name in parts},
        ids={name: torch.tensor([p.id for p in found[name]], dtype=torch.int64) for name in parts},
        digests={name: digest(part) for name, part in parts.items()},
    )


USE = {"train": "train", "val": "validate", "test": "test"}


def find_named(root: Path, passed: Passed) -> dict[str, Path]:
    """Find the folders of parts, by what they are for; if there are none, "" is the whole folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: two are for the same.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; if its pictures are elsewhere now, --data says where"
        )
    named: dict[str, Path] = {}
    others = []
    for name, path in class_folders(root).items():
        use = SPLITS.get(name.lower())
        if not use or not class_folders(path):
            others.append(name)
        elif use in named:
            raise ValueError(f"{root} holds {named[use].name} and {path.name}; keep one")
        else:
            named[use] = path
    if not named:
        _check_no_parts(root)
        return {"": root}
    passed.folders += others
    return named


def find_parts(root: Path, passed: Passed) -> dict[str, Part]:
    """Find the pictures to train on, to validate on and to test on, as far as there are parts."""
    if is_listing(root):
        parts = read_listing(root)
    else:
        named = find_named(root, passed)
        parts = {name: find_pictures(folder, passed) for name, folder in named.items()}
    if "" not in parts and ("train" not in parts or len(parts) == 1):
        raise ValueError(
            f"{root} holds {', '.join(parts)}; there must be train, and test or val, or no parts, "
            "of which a fifth is chosen to test on"
        )
    classes = parts.get("") or parts["train"]
    if len(classes) == 1:
        raise ValueError(f"{root} holds one class, {next(iter(classes))}; at least 2 are needed")
    for name, part in parts.items():
        if unknown := ", ".join(sorted(part.keys() - classes.keys())):
            raise ValueError(f"{root} holds {unknown} in {name}, but not in train")
    if "" not in parts:
        return {name: parts[name] for name in USE if name in parts}
    if alone := [name for name, pictures in classes.items() if len(pictures) < 2]:
        raise ValueError(f"{root} holds one picture of {alone[0]}; at least 2 are needed")
    return split_classes(classes)


def _check_no_parts(root: Path) -> None:
    """Refuse folders that look like parts under names that are not known."""
    folders = class_folders(root)
    inner = [set(class_folders(folder)) for folder in folders.values()]
    only_folders = not any(path.is_file() for place in folders.values() for path in place.iterdir())
    alike = len(folders) > 1 and len(inner[0]) > 1 and inner.count(inner[0]) == len(inner)
    if alike and only_folders:
        raise ValueError(
            f"{root} holds {', '.join(folders)}, each with only the folders "
            f"{', '.join(sorted(inner[0]))}: if these are the classes, call the outer folders "
            "train, val and test"
        )


def split_classes(pictures: Part) -> dict[str, Part]:
    """Choose a part of each class to test on."""
    parts: dict[str, Part] = {"train": {}, "test": {}}
    for name, found in pictures.items():
        for picture, test in zip(found, is_for_test([p.id for p in found]), strict=True):
            parts["test" if test else "train"].setdefault(name, []).append(picture)
    return parts


def find_pictures(folder: Path, passed: Passed) -> Part:
    """Find the pictures of every class, at any depth.

    Raises:
        ValueError: there are no classes, or one has no pictures.
    """
    places = class_folders(folder)
    found = {name: pictures_under(place, passed.files) for name, place in places.items()}
    if empty := ", ".join(name for name, paths in found.items() if not paths):
        known = " ".join(sorted(extensions()))
        raise ValueError(f"{folder} holds no pictures in {empty}; pictures end in {known}")
    if not places:
        what = "pictures and no folders" if pictures_under(folder, Counter()) else "no folders"
        raise ValueError(
            f"{folder} holds {what}, one for each class; give the folder above, "
            f"if {folder.absolute().name} is a class"
        )
    return {name: identify(paths) for name, paths in found.items()}


def _shown(root: Path, path: Path) -> str:
    """The path of a picture below the folder, or below that of the list."""
    folder = root.parent if is_listing(root) else root
    return readable((path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix())


def _labels(part: Part, classes: Sequence[str]) -> Tensor:
    labels = [classes.index(name) for name, pictures in part.items() for _ in pictures]
    return torch.tensor(labels, dtype=torch.int64)
