"""Pictures on disk: any that Pillow can decode, alone or in a folder for each class."""

import math
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchcnn.augment import resize
from torchcnn.data import DATA_NAMES, ImageData, load_data
from torchcnn.system import cores, free_memory

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
TEST_SHARE = 0.2  # of a folder that has no part for it


def read_image(path: str | Path, channels: int, size: int | None = None) -> Tensor:
    """A picture as (channels, h, w) uint8, or as a square of `size` pixels.

    1 channel is grey, 3 are red, green and blue; transparency is laid on black, and a picture
    that a camera took on its side is turned.

    Raises:
        ValueError: another number of channels, or a file that is no picture; the message names it.
        FileNotFoundError: there is no such file.
    """
    from PIL import Image, ImageOps

    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")

    def decode(file: Any) -> Any:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep the lower 8
            deep = np.asarray(image).astype(np.int64)
            image = Image.fromarray((deep.clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        return image.convert("L" if channels == 1 else "RGB")

    image = _open(path, decode)
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, channels)
    pixels = pixels.permute(2, 0, 1).contiguous()
    return pixels if size is None else resize(pixels[None], size)[0]


def _open(path: str | Path, use: Any) -> Any:
    """What `use` makes of a picture; whatever is wrong with the file names it."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return use(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {path}") from None
    except Exception as error:  # whatever a damaged file provokes in Pillow
        raise ValueError(f"{path} cannot be decoded as a picture ({error})") from error


def load_images(
    name: str, root: str | Path, size: int, seed: int, device: torch.device
) -> ImageData:
    """A data set by its name, as `load_data` gives it, or a folder, as `load_folder` does."""
    if name in DATA_NAMES:
        return load_data(name, root)
    return load_folder(Path(name), size, seed, free_memory(device) // 4)


class Pictures(torch.utils.data.Dataset[Tensor]):
    """Pictures that stay on disk: as an (n, channels, size, size) uint8 tensor, to the eye.

    An index gives a picture, decoded; a tensor of indices, or a slice, gives some of the pictures.
    """

    dtype = torch.uint8

    def __init__(self, paths: Sequence[Path], channels: int, size: int) -> None:
        self.paths, self.channels, self.size = paths, channels, size
        self.shape = torch.Size((len(paths), channels, size, size))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int):
            return read_image(self.paths[index], self.channels, self.size)
        chosen = torch.arange(len(self))[index].tolist()
        return Pictures([self.paths[i] for i in chosen], self.channels, self.size)

    def __getitems__(self, indices: list[int]) -> Tensor | Exception:
        """A batch, for `DataLoader`; an error is returned, since workers wrap what they raise."""
        try:
            return torch.stack([self[i] for i in indices])
        except (ValueError, OSError) as error:
            return error


def decoded(pictures: Pictures, batches: Sequence[Tensor], pinned: bool) -> Iterator[Tensor]:
    """The pictures of each batch of indices, decoded by worker processes, a few batches ahead.

    `pinned` puts them where a GPU takes them from without waiting.

    Raises:
        ValueError, FileNotFoundError: as `read_image` does.
    """
    loader = torch.utils.data.DataLoader(
        pictures, batch_sampler=[batch.tolist() for batch in batches], collate_fn=_as_it_is,
        generator=torch.Generator(),  # else a draw from the one that dropout goes on with
        num_workers=cores(), pin_memory=pinned,
        worker_init_fn=_leave_signals_to_the_main_process,
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _leave_signals_to_the_main_process(_: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # which go to the whole group of processes
        signal.signal(signum, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch


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


def _decode(pictures: Pictures) -> Tensor:
    images = torch.empty(pictures.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without Python's lock
        for i, image in enumerate(pool.map(pictures.__getitem__, range(len(pictures)))):
            images[i] = image
    return images
