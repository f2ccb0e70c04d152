"""Your own pictures: a folder with one folder of pictures for each class."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchcnn.data.datasets import DATASETS, ImageData, load_data
from torchcnn.data.decode import LazyImages, decode_all, open_image
from torchcnn.system import free_memory

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
TEST_FRACTION = 0.2  # of a folder that has no test part

Part = dict[str, list[Path]]  # the pictures of each class


def load_images(
    name: str, root: str | Path, size: int, seed: int, device: torch.device
) -> ImageData:
    """Return a data set by its name, as `load_data` does, or a folder, as `load_folder` does."""
    if name in DATASETS:
        return load_data(name, root)
    return load_folder(Path(name), size, seed, free_memory(device) // 4)


def load_folder(root: Path, size: int, seed: int, max_bytes: float = math.inf) -> ImageData:
    """Read `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone.

    Without a test part, a fifth of each class is drawn for it, by `seed`. Every picture becomes a
    square of `size` pixels. They are decoded once, into memory, if that takes at most `max_bytes`;
    otherwise in every pass, as they are needed. The images are grey if all files are, else colour.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no classes, a class has no pictures, a test class is not trained, or
            a picture cannot be decoded; the message names it.
    """
    train, test = _find_parts(root, seed)
    classes = list(train)
    every = [path for part in (train, test) for paths in part.values() for path in paths]
    grey = all(open_image(path, lambda f: f.mode in ("1", "L", "I", "I;16")) for path in every)
    channels = 1 if grey else 3
    x_train, y_train = _lazy_images(train, classes, channels, size)
    x_test, y_test = _lazy_images(test, classes, channels, size)
    note = f"{len(y_train):,} images to train, {len(y_test):,} to test, of {len(classes)} classes"
    images: Any = x_train, x_test
    if len(every) * channels * size**2 <= max_bytes:
        images = decode_all(x_train), decode_all(x_test)
    else:
        note += f"; decoded in every pass, since memory holds {max_bytes / 2**30:.1f} GiB of images"
    return ImageData(str(root), tuple(classes), images[0], y_train, images[1], y_test, note)


def _find_parts(root: Path, seed: int) -> tuple[Part, Part]:
    """Find the pictures to train on and to test on."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    folders = {name: root / name for name in ("train", "test")}
    here = [name for name, path in folders.items() if path.is_dir()]
    if len(here) == 1 and any(path.is_dir() for path in folders[here[0]].iterdir()):
        raise ValueError(f"{root} holds {here[0]}/<class>/*, but not both train and test")
    if len(here) < 2:
        return _split(root, _find_pictures(root), seed)
    train, test = _find_pictures(folders["train"]), _find_pictures(folders["test"])
    if unknown := ", ".join(sorted(test.keys() - train.keys())):
        raise ValueError(f"{folders['test']} holds {unknown}, which {folders['train']} does not")
    return train, test


def _split(root: Path, pictures: Part, seed: int) -> tuple[Part, Part]:
    """Draw a part of each class to test on."""
    train, test = {}, {}
    for i, (name, paths) in enumerate(pictures.items()):
        generator = torch.Generator().manual_seed((seed * 100_003 + i) % 2**63)
        order = [paths[j] for j in torch.randperm(len(paths), generator=generator).tolist()]
        count = max(1, round(len(paths) * TEST_FRACTION))
        train[name], test[name] = sorted(order[count:]), sorted(order[:count])
        if not train[name]:
            raise ValueError(f"{root / name} holds one picture; at least 2 are needed")
    return train, test


def _find_pictures(folder: Path) -> Part:
    """Find the pictures of every class, sorted by name."""
    places = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    found = {
        place.name: sorted(p for p in place.rglob("*") if p.suffix.lower() in EXTENSIONS)
        for place in places
    }
    if empty := ", ".join(name for name, paths in found.items() if not paths):
        raise ValueError(f"{folder} holds no pictures in {empty}")
    if len(found) < 2:
        raise ValueError(
            f"{folder} holds {len(found)} folders of pictures; there must be one for each class, "
            "2 or more"
        )
    return found


def _lazy_images(
    part: Part, classes: Sequence[str], channels: int, size: int
) -> tuple[LazyImages, Tensor]:
    paths = [path for paths in part.values() for path in paths]
    labels = [classes.index(name) for name, paths in part.items() for _ in paths]
    return LazyImages(paths, channels, size), torch.tensor(labels, dtype=torch.int64)
