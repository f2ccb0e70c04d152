"""Pictures on disk: any that Pillow can decode, alone or in a folder for each class."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchcnn.data.datasets import DATA_NAMES, ImageData, load_data
from torchcnn.data.decode import Pictures, _decode, _open
from torchcnn.system import free_memory

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
TEST_SHARE = 0.2  # of a folder that has no part for it


def load_images(
    name: str, root: str | Path, size: int, seed: int, device: torch.device
) -> ImageData:
    """A data set by its name, as `load_data` gives it, or a folder, as `load_folder` does."""
    if name in DATA_NAMES:
        return load_data(name, root)
    return load_folder(Path(name), size, seed, free_memory(device) // 4)


def load_folder(root: Path, size: int, seed: int, room: float = math.inf) -> ImageData:
    """Your own images: `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone.

    Without a part to test on, a fifth of each class is drawn for it, by `seed`. Every picture is
    decoded once, to a square of `size` pixels, into memory if `room` bytes hold them all, else in
    every pass, as it is needed. All are grey if all files are, else all are colour.

    Raises:
        ValueError: no classes, a class without pictures, a test class that is not trained, or a
            picture that cannot be decoded; the message names it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    parts = {part: root / part for part in ("train", "test")}
    here = [name for name, path in parts.items() if path.is_dir()]
    if len(here) == 1 and any(path.is_dir() for path in parts[here[0]].iterdir()):
        raise ValueError(f"{root} holds {here[0]}/<class>/*, but not both train and test")
    split = len(here) == 2
    train = _pictures(parts["train"] if split else root)
    classes = list(train)
    if split:
        test = _pictures(parts["test"])
        if unknown := test.keys() - train.keys():
            raise ValueError(f"{parts['test']} holds {', '.join(sorted(unknown))}, "
                             f"which {parts['train']} does not")  # fmt: skip
    else:
        test = {}
        for i, (name, paths) in enumerate(train.items()):
            generator = torch.Generator().manual_seed((seed * 100_003 + i) % 2**63)
            order = [paths[j] for j in torch.randperm(len(paths), generator=generator).tolist()]
            count = max(1, round(len(paths) * TEST_SHARE))
            train[name], test[name] = sorted(order[count:]), sorted(order[:count])
            if not train[name]:
                raise ValueError(f"{root / name} holds one picture; at least 2 are needed")
    every = [path for part in (train, test) for paths in part.values() for path in paths]
    grey = all(_open(path, lambda file: file.mode in ("1", "L", "I", "I;16")) for path in every)
    channels = 1 if grey else 3
    x_train: Any
    x_test: Any
    x_train, y_train = _of_classes(train, classes, channels, size)
    x_test, y_test = _of_classes(test, classes, channels, size)
    note = f"{len(y_train):,} images to train, {len(y_test):,} to test, of {len(classes)} classes"
    if len(every) * channels * size**2 > room:
        note += f"; decoded in every pass, since memory holds {room / 2**30:.1f} GiB of images"
        return ImageData(str(root), tuple(classes), x_train, y_train, x_test, y_test, note)
    x_train, x_test = _decode(x_train), _decode(x_test)
    return ImageData(str(root), tuple(classes), x_train, y_train, x_test, y_test, note)


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """The pictures of every class, in the order of their names."""
    found = {
        place.name: sorted(p for p in place.rglob("*") if p.suffix.lower() in ENDINGS)
        for place in sorted(folder.iterdir()) if place.is_dir() and place.name[0] != "."
    }  # fmt: skip
    empty = [name for name, paths in found.items() if not paths]
    if len(found) < 2 or empty:
        what = f"holds no pictures in {', '.join(empty)}" if empty else (
            f"holds {len(found)} folders of pictures; there must be one for each class, 2 or more"
        )  # fmt: skip
        raise ValueError(f"{folder} {what}")
    return found


def _of_classes(
    part: dict[str, list[Path]], classes: Sequence[str], channels: int, size: int
) -> tuple[Pictures, Tensor]:
    labels = [classes.index(name) for name, paths in part.items() for _ in paths]
    every = [path for paths in part.values() for path in paths]
    return Pictures(every, channels, size), torch.tensor(labels, dtype=torch.int64)
