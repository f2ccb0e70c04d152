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
    pillow_quiet,
)
from torchcnn.data.identity import (
    Part,
    class_folders,
    digest,
    identify,
    pictures_of,
    readable,
)
from torchcnn.data.listing import SPLITS, is_listing, read_listing
from torchcnn.data.split import is_for_test
from torchcnn.files import plural
from torchcnn.system import files_under, free_memory, is_visible

GREY = ("1", "L", "LA", "La", "F", "I")  # Pillow's modes of grey; 16 bits are I;16


@dataclass
class Passed:
    """What is passed over in a folder, to be said."""

    files: Counter[str] = field(default_factory=Counter)  # by kind
    folders: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = [f"{count} {kind}" for kind, count in self.files.most_common(4)]
        files = plural(self.files.total(), "file")
        text = f"; passed over {files} ({', '.join(kinds)})" if kinds else ""
        which = "folder" if len(self.folders) == 1 else "folders"
        return text + f"; passed over the {which} {', '.join(self.folders)}" * bool(self.folders)


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
    parts = listed_parts(root) if is_listing(root) else find_parts(root, passed)
    data = decode_parts(root, parts, list(parts["train"]), options)
    counts = {name: len(pictures_of(part)) for name, part in parts.items()}
    note = ", ".join(f"{n:,} to {USE[name]}" for name, n in counts.items())
    note = f"images: {note}, of {len(data.classes)} classes"
    if "test" not in parts:
        note += "; there is no test part"
    return replace(data, note=f"{note}{data.note}{passed}")


@pillow_quiet()
def decode_parts(
    root: Path, parts: dict[str, Part], classes: Sequence[str], options: FolderOptions
) -> ImageData:
    """Decode the pictures of the parts that there are; the labels are places among the classes.

    Raises:
        ValueError: a picture cannot be decoded; the message names it.
    """
    found = {name: parts.get(name, {}) for name in USE}
    paths = {name: [picture.path for picture in pictures_of(part)] for name, part in found.items()}
    every = [path for of_part in paths.values() for path in of_part]
    channels = options.channels or (1 if all(open_image(p, _is_grey) for p in every) else 3)
    lazy = {
        name: LazyImages(of_part, channels, options.size, options.resize)
        for name, of_part in paths.items()
    }
    in_memory = len(every) * channels * options.size**2 <= options.max_bytes
    images: dict[str, Any] = (
        {name: decode_all(x) for name, x in lazy.items()} if in_memory else lazy
    )
    labels = {name: _labels(part, classes) for name, part in found.items()}
    room = f"{options.max_bytes / 2**30:.1f} GiB"
    streamed = f"; decoded in every pass, since memory holds {room} of images"
    has_val = "val" in parts
    return ImageData(
        name=str(root),
        classes=tuple(classes),
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        note="" if in_memory else streamed,
        val_images=images["val"] if has_val else None,
        val_labels=labels["val"] if has_val else None,
        names={
            name: [readable(_within(root, path).as_posix()) for path in paths[name]]
            for name in parts
        },
        ids={
            name: torch.tensor([p.id for p in pictures_of(part)], dtype=torch.int64)
            for name, part in parts.items()
        },
        digests={name: digest(part) for name, part in parts.items()},
    )


USE = {"train": "train", "val": "validate", "test": "test"}


def find_named(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Find the folders of parts, by what they are for, and the names of the folders beside them.

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
    return named, others


def find_parts(root: Path, passed: Passed) -> dict[str, Part]:
    """Find the pictures to train on, to validate on and to test on, as far as there are parts."""
    named, others = find_named(root)
    if not named:
        _check_no_parts(root)
        pictures = find_pictures(root, passed)
        if alone := [name for name, found in pictures.items() if len(found) < 2]:
            raise ValueError(f"{root / alone[0]} holds one picture; at least 2 are needed")
        return split_classes(pictures)
    if "train" not in named or len(named) == 1:
        here = ", ".join(f"{path.name}/<class>/*" for path in named.values())
        raise ValueError(
            f"{root} holds {here}; there must be train/<class>/* and beside it test or val, or "
            "<class>/* alone, of which a fifth is chosen to test on"
        )
    passed.folders += others
    parts = {name: find_pictures(named[name], passed) for name in USE if name in named}
    for name, part in parts.items():
        if unknown := ", ".join(sorted(part.keys() - parts["train"].keys())):
            raise ValueError(f"{named[name]} holds {unknown}, which {named['train']} does not")
    return parts


def listed_parts(path: Path) -> dict[str, Part]:
    """Find the pictures of a list, as `find_parts` does those of a folder."""
    parts = read_listing(path)
    classes = parts.get("", parts.get("train", {}))
    if "" not in parts and ("train" not in parts or len(parts) == 1):
        got = ", ".join(parts)
        raise ValueError(f"{path} has the splits {got}; there must be train, and test or val")
    if len(classes) < 2:
        raise ValueError(
            f"{path} has {len(classes)} label to train on, {', '.join(classes)}; at least 2 are "
            "needed"
        )
    for name, part in parts.items():
        if unknown := ", ".join(sorted(part.keys() - classes.keys())):
            raise ValueError(f"{path} has {unknown} in {name}, but not in train")
    if "" not in parts:
        return {name: parts[name] for name in USE if name in parts}
    if alone := [name for name, pictures in classes.items() if len(pictures) < 2]:
        raise ValueError(f"{path} has one picture of {alone[0]}; at least 2 are needed")
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
        pairs = list(zip(found, is_for_test([picture.id for picture in found]), strict=True))
        parts["train"][name] = [picture for picture, test in pairs if not test]
        parts["test"][name] = [picture for picture, test in pairs if test]
    return parts


def find_pictures(folder: Path, passed: Passed, least: int = 2) -> Part:
    """Find the pictures of every class, at any depth.

    Raises:
        ValueError: there are fewer classes than `least`, or one has no pictures.
    """
    places = class_folders(folder)
    found = {name: _pictures_under(place, passed) for name, place in places.items()}
    if empty := ", ".join(name for name, paths in found.items() if not paths):
        known = " ".join(sorted(extensions()))
        raise ValueError(f"{folder} holds no pictures in {empty}; pictures end in {known}")
    if not places and _pictures_under(folder, Passed()):
        raise ValueError(
            f"{folder} holds pictures and no folders, one for each class; give the folder above, "
            f"if {folder.absolute().name} is a class"
        )
    if len(found) < least:
        raise ValueError(
            f"{folder} holds {plural(len(found), 'folder')} of pictures; there must be one for "
            f"each class, {least} or more"
        )
    return {name: identify(paths) for name, paths in found.items()}


def _pictures_under(place: Path, passed: Passed) -> list[Path]:
    found = []
    for path in files_under(place, is_visible):
        if not is_visible(path.name):
            passed.files["hidden"] += 1
        elif not path.is_file():  # a pipe, a socket, a link to nothing
            passed.files["no regular file"] += 1
        elif path.suffix.lower() not in extensions():
            passed.files[path.suffix.lower() or "without extension"] += 1
        else:
            found.append(path)
    return sorted(found)


def _within(root: Path, path: Path) -> Path:
    """The path of a picture below the folder, or below that of the list."""
    folder = root.parent if is_listing(root) else root
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _is_grey(image: Any) -> bool:
    return image.mode.split(";")[0] in GREY


def _labels(part: Part, classes: Sequence[str]) -> Tensor:
    labels = [classes.index(name) for name, pictures in part.items() for _ in pictures]
    return torch.tensor(labels, dtype=torch.int64)
