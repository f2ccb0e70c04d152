"""Pictures on disk: any that Pillow can decode, as uint8 tensors."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchcnn.augment import resize


def read_image(path: str | Path, channels: int, size: int | None = None) -> Tensor:
    """A picture as (channels, h, w) uint8, or as a square of `size` pixels.

    1 channel is grey, 3 are red, green and blue; transparency is laid on black, and a picture
    that a camera took on its side is turned.

    Raises:
        ValueError: another number of channels, or a file that is no picture; the message names it.
        OSError: it cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep the lower 8
                deep = np.asarray(image).astype(np.int64)
                image = Image.fromarray((deep.clip(0, 65535) // 257).astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {path}") from None
    except (UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError,
            OSError) as error:  # fmt: skip
        raise ValueError(f"{path} cannot be decoded as a picture ({error})") from error
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, channels)
    pixels = pixels.permute(2, 0, 1).contiguous()
    return pixels if size is None else resize(pixels[None], size)[0]
