"""Pictures on disk, decoded: any that Pillow can read, one by one or in batches while training."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchcnn.data.augment import resize
from torchcnn.system import cores


def read_image(path: str | Path, channels: int, size: int | None = None) -> Tensor:
    """Read a picture as (channels, h, w) uint8, or resized to a square of `size` pixels.

    With 1 channel the picture is grey, with 3 it is red, green and blue. Transparent pixels are
    drawn on black, and the orientation that a camera noted is applied.

    Raises:
        ValueError: another number of channels, or a file that is no picture; the message names it.
        FileNotFoundError: there is no such file.
    """
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")

    def decode(file: Any) -> Any:
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep the lower 8
            deep = np.asarray(image).astype(np.int64)
            image = Image.fromarray((deep.clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        return image.convert("L" if channels == 1 else "RGB")

    image = open_image(path, decode)
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, channels)
    pixels = pixels.permute(2, 0, 1).contiguous()
    return pixels if size is None else resize(pixels[None], size)[0]


def open_image(path: str | Path, use: Callable[[Any], Any]) -> Any:
    """Open a picture with Pillow and return `use(image)`; every error names the file.

    Raises:
        ValueError: the file is no picture, or is damaged.
        FileNotFoundError: there is no such file.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            return use(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {path}") from None
    except Exception as error:  # damaged files provoke many kinds of errors in Pillow
        raise ValueError(f"{path} cannot be decoded as a picture ({error})") from error


class LazyImages(Dataset[Tensor]):
    """Pictures that stay on disk, with the interface of an (n, channels, size, size) uint8 tensor.

    An integer index returns a decoded picture; a tensor of indices or a slice returns those
    pictures as `LazyImages`.
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
        return LazyImages([self.paths[i] for i in chosen], self.channels, self.size)

    def __getitems__(self, indices: list[int]) -> Tensor | Exception:
        """A batch, for `DataLoader`; errors are returned, because workers wrap what they raise."""
        try:
            return torch.stack([self[i] for i in indices])
        except (ValueError, OSError) as error:
            return error


def decode_all(images: LazyImages) -> Tensor:
    """Decode all pictures into memory: (n, channels, size, size) uint8.

    Raises:
        ValueError, FileNotFoundError: as `read_image` does.
    """
    decoded = torch.empty(images.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(cores()) as pool:  # Pillow releases Python's lock while it decodes
        for i, image in enumerate(pool.map(images.__getitem__, range(len(images)))):
            decoded[i] = image
    return decoded


def decode_batches(
    images: LazyImages, batches: Sequence[Tensor], pin_memory: bool
) -> Iterator[Tensor]:
    """Decode the pictures of each batch of indices in worker processes, a few batches ahead.

    Raises:
        ValueError, FileNotFoundError: as `read_image` does.
    """
    loader = DataLoader(
        images,
        batch_sampler=[batch.tolist() for batch in batches],
        collate_fn=_identity,
        generator=torch.Generator(),  # the default one would draw a number that dropout needs
        num_workers=cores(),
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _ignore_signals(_: int) -> None:
    """Leave signals, which the whole group of processes gets, to the main process."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def _identity(batch: Any) -> Any:
    return batch
