"""Pictures on disk, decoded: any that Pillow can read."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchcnn.data.augment import resize
from torchcnn.system import cores


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


def _decode(pictures: Pictures) -> Tensor:
    images = torch.empty(pictures.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without Python's lock
        for i, image in enumerate(pool.map(pictures.__getitem__, range(len(pictures)))):
            images[i] = image
    return images
