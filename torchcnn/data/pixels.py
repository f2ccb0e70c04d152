"""The pixels of a picture that Pillow has opened: turned, in 8 bits, on black, of a size."""

from contextlib import suppress
from typing import Any

import numpy as np

ENOUGH = 3  # times the size that is asked for; of what is larger, blocks are averaged first
# A JPEG is decoded at a half, a quarter or an eighth if it stays so many times as large as needed.
# A photo of 1000×750 pixels then takes half the time, and at 224 pixels its values differ from
# those of the whole picture by half a grey level in the mean, and by 9 at most.
DRAFT = 1.5
# What Pillow multiplies the pixels of a grey PNG of few bits by, but not its transparent value.
LEVELS = {"1": 255, "L;2": 85, "L;4": 17}
DETOURS = {"La": "LA", "LAB": "RGB"}  # the only modes that Pillow converts these to


def prepare(file: Any, channels: int, size: int | None, resize: str) -> Any:
    """Return an opened picture in grey or in colour, as a square if a size is given.

    The arguments are those of `torchcnn.data.decode.read_image`.

    Raises:
        ValueError: the range of its values is not known, or they are not in it.
    """
    from PIL import Image, ImageOps

    if size is not None:
        file.draft(None, (int(DRAFT * size), int(DRAFT * size)))
    if file.format == "PNG" and "transparency" in file.info:
        file.info["transparency"] = _transparent_value(file)
    # Pillow 13 maps an uncompressed TIFF in memory, and if it lies on its side, with wrong rows.
    file.filename = ""
    file.load()
    with suppress(Exception):  # of damaged EXIF data nothing but the orientation is needed
        ImageOps.exif_transpose(file, in_place=True)  # a TIFF is turned already
    image = _in_8_bits(file)
    if image.mode in DETOURS:
        image = image.convert(DETOURS[image.mode])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is None:
        return image
    box = square_in(image.size, size, resize)
    return image.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=ENOUGH)


def square_in(
    picture: tuple[int, int], size: int, resize: str
) -> tuple[float, float, float, float]:
    """Return what of a picture (width, height) becomes the square: (left, top, right, bottom)."""
    w, h = picture
    if resize == "squeeze":
        return 0.0, 0.0, float(w), float(h)
    # The whole picture would become this large: "crop-256" is a shorter side of 256 for 224.
    shorter = round(size * int(resize[5:] or 224) / 224)
    resized_w, resized_h = shorter * w // min(w, h), shorter * h // min(w, h)
    left, top = round((resized_w - size) / 2), round((resized_h - size) / 2)
    x, y = w / resized_w, h / resized_h
    return left * x, top * y, (left + size) * x, (top + size) * y


def _transparent_value(file: Any) -> Any:
    """The value that a PNG calls transparent, on the scale to which Pillow brings its pixels."""
    value, stored = file.info["transparency"], file.tile[0][3]
    if stored == "RGB;16B":  # of which Pillow reads the upper bytes
        return tuple(v >> 8 for v in value)
    return min(value * LEVELS[stored], 255) if stored in LEVELS else value


def _in_8_bits(image: Any) -> Any:
    """Scale pixels of more than 8 bits by the range of their kind; make transparent ones black.

    Raises:
        ValueError: their range is not known, or they are not in it.
    """
    from PIL import Image

    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    pixels, top = np.asarray(image), 1.0
    if "transparency" in image.info:  # of a PNG; the value has the bits of the file
        pixels = np.where(pixels == image.info["transparency"], 0, pixels)
    if image.mode.startswith("I"):
        tags = getattr(image, "tag_v2", {})  # of TIFF: 258 is bits per sample, 339 their kind
        bits = tags.get(258, (16,))[0] if image.format in ("PNG", "PPM", "TIFF") else 16
        signed = tags.get(339, (1,))[0] == 2
        if bits > 16:
            raise ValueError(f"{bits}-bit integers have no known range; save it in 8 or 16 bits")
        top = float(2 ** (bits - signed) - 1)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= top):
        kind = "floating-point" if image.mode == "F" else "integer"
        raise ValueError(f"{kind} pixels must be from 0 to {top:g}, got {low:g} to {high:g}")
    return Image.fromarray((pixels * (255 / top) + 0.5).astype(np.uint8))
