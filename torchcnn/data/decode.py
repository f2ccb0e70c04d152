"""Pictures on disk, decoded: any that Pillow can read, one by one or in batches while training."""

import functools
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchcnn.data.pixels import prepare
from torchcnn.system import cores, files_under, is_visible

# Pillow only identifies these formats, or starts another program to decode them.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """Let Pillow not warn of what it reads all the same; for one thread at a time.

    That is damaged metadata, or a photograph that it deems large. What is too large, a
    "decompression bomb", is an error.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@functools.cache
def formats() -> tuple[str, ...]:
    """The names of the formats that are read, as Pillow has them, in the order to try them."""
    from PIL import Image

    Image.init()
    usual = "JPEG", "PNG"
    return *usual, *sorted(set(Image.OPEN) - NOT_DECODED - set(usual))


@functools.cache
def extensions() -> frozenset[str]:
    """The extensions of the files that are read, in lower case: .png, .jpg, ..."""
    from PIL import Image

    known = set(formats())
    return frozenset(ext for ext, name in Image.registered_extensions().items() if name in known)


def pictures_under(folder: Path, passed: Counter[str]) -> list[Path]:
    """Find the pictures in a folder and below, sorted; count what is passed over, by its kind."""
    found = []
    for path in files_under(folder, is_visible):
        if not is_visible(path.name):
            passed["hidden"] += 1
        elif not path.is_file():  # a pipe, a socket, a link to nothing
            passed["no regular file"] += 1
        elif path.suffix.lower() not in extensions():
            passed[path.suffix.lower() or "without extension"] += 1
        else:
            found.append(path)
    return sorted(found)


def find_pictures(names: Sequence[str]) -> list[str]:
    """Replace folders by the pictures in them and below, in the order of their names.

    A picture that is named twice is in the list once. Hidden and system files and folders are
    passed over, as in training, but for a folder that is named.

    Raises:
        FileNotFoundError: a folder has none.
    """
    files: dict[str, None] = {}
    for name in names:
        folder = Path(name).expanduser()
        inside = list(map(str, pictures_under(folder, Counter()))) if folder.is_dir() else [name]
        if not inside:
            raise FileNotFoundError(f"there are no pictures in {name}")
        files |= dict.fromkeys(inside)
    return list(files)


@pillow_quiet()
def read_image(
    path: str | Path, channels: int, size: int | None = None, resize: str = "squeeze"
) -> Tensor:
    """Read a picture as (channels, h, w) uint8, or as a square of `size` pixels.

    With 1 channel the picture is grey, with 3 it is red, green and blue. Transparent pixels are
    drawn on black, and the orientation that a camera noted is applied. The interpolation is
    bilinear with antialiasing, as Pillow's and torchvision's; large pictures are reduced first, see
    `torchcnn.data.pixels`.

    Args:
        resize: "squeeze" changes the aspect ratio; "crop" resizes the shorter side and cuts out the
            centre, as torchvision's `Resize` and `CenterCrop` do. "crop-232" and "crop-256" make
            the shorter side 232/224 or 256/224 of the size, as torchvision evaluates its networks.

    Raises:
        ValueError: another number of channels, or a file that is no picture, or one whose range of
            values is not known; the message names it.
        FileNotFoundError: there is no such file.
    """
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")
    return _read(path, channels, size, resize)


def _read(path: str | Path, channels: int, size: int | None, resize: str) -> Tensor:
    image = open_image(path, lambda file: prepare(file, channels, size, resize))
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, channels)
    return pixels.permute(2, 0, 1).contiguous()


def open_image(path: str | Path, use: Callable[[Any], Any]) -> Any:
    """Open a picture with Pillow and return `use(image)`; every error names the file.

    Raises:
        ValueError: the file is no picture, or is damaged.
        FileNotFoundError: there is no such file.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=formats()) as file:
            return use(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {path}") from None
    except Exception as error:  # damaged files provoke many kinds of errors in Pillow
        raise ValueError(f"{path} cannot be decoded as a picture ({error})") from error


class LazyImages:
    """Pictures that stay on disk, with the interface of an (n, channels, size, size) uint8 tensor.

    An integer index returns a decoded picture; a tensor of indices or a slice returns those
    pictures as `LazyImages`. `resize` is that of `read_image`.
    """

    dtype = torch.uint8

    def __init__(self, paths: Sequence[Path], channels: int, size: int, resize: str) -> None:
        self.paths, self.channels, self.size, self.resize = paths, channels, size, resize
        self.shape = torch.Size((len(paths), channels, size, size))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int):
            return read_image(self.paths[index], self.channels, self.size, self.resize)
        paths = [self.paths[i] for i in torch.arange(len(self))[index].tolist()]
        return LazyImages(paths, self.channels, self.size, self.resize)

    def read(self, path: Path) -> Tensor:
        """Decode one of them; the caller keeps Pillow quiet."""
        return _read(path, self.channels, self.size, self.resize)


@pillow_quiet()
def decode_all(images: LazyImages) -> Tensor:
    """Decode all pictures into memory: (n, channels, size, size) uint8."""
    decoded = torch.empty(images.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(cores()) as pool:  # Pillow releases Python's lock while it decodes
        for i, image in enumerate(pool.map(images.read, images.paths)):
            decoded[i] = image
    return decoded


def decode_batches(
    images: LazyImages, batches: Sequence[Tensor], pin_memory: bool
) -> Iterator[Tensor]:
    """Decode the pictures of each batch of indices in threads, a few batches ahead."""
    ahead = 2 + 2 * cores() // max(map(len, batches), default=1)
    decoding: deque[list[Future[Tensor]]] = deque()
    with pillow_quiet(), ThreadPoolExecutor(cores()) as pool:
        try:
            for batch in [*batches, *[torch.tensor(())] * ahead]:
                decoding.append([pool.submit(images.read, images.paths[i]) for i in batch.tolist()])
                if len(decoding) > ahead:
                    decoded = torch.stack([picture.result() for picture in decoding.popleft()])
                    yield decoded.pin_memory() if pin_memory else decoded
        finally:
            pool.shutdown(cancel_futures=True)
