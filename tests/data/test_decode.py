"""Pictures on disk: every kind becomes bytes, by its true range, or is refused by name."""

import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from torchcnn.data.decode import extensions, find_pictures, read_image

RAMP = np.linspace(0, 255, 16).round().astype(np.uint8).reshape(1, 16)  # 0, 17, 34, ... 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_becomes_bytes(mode, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 8), np.uint8))
    path = tmp_path / ("m.tiff" if mode == "CMYK" else "m.png")
    image.convert(mode).save(path)
    for channels in (1, 3):
        x = read_image(path, channels)
        assert x.shape == (channels, 5, 8) and x.dtype == torch.uint8
        assert read_image(path, channels, 4).shape == (channels, 4, 4)


def test_the_pixels_of_a_picture_are_its_own(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert np.array_equal(read_image(tmp_path / "m.png", 3).permute(1, 2, 0).numpy(), pixels)
    with pytest.raises(ValueError, match="has 1 or 3 channels, not 2"):
        read_image(tmp_path / "m.png", 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_pillows(orientation, tmp_path):
    from PIL import ImageOps

    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "e.png", exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "e.png")))
    assert np.array_equal(read_image(tmp_path / "e.png", 3).permute(1, 2, 0).numpy(), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's; the commands do not show it
def test_damaged_exif_has_no_say_but_the_orientation_has(tmp_path):
    """A resolution that is stored as text beside orientation 6, and EXIF that is cut short."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(
        "<HHI4s", 0x011A, 2, 4, b"abc\0"
    )
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=100)
    x = read_image(tmp_path / "a.jpg", 3)
    assert x.shape == (3, 16, 8) and x[0, 0].min() > 250 and x[0, -1].max() < 5
    cut = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"
    Image.fromarray(pixels).save(tmp_path / "b.jpg", exif=cut, quality=100)
    assert read_image(tmp_path / "b.jpg", 3).shape == (3, 8, 16)


def tiff(path, bits, content, kind=1):
    """A grey TIFF of 1×16 pixels with any number of bits (tag 258) and kind of sample (339)."""
    tags = [(256, 16), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1),
            (279, len(content)), (339, kind)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    path.write_bytes(head + content + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0")


def packed_12(values):
    """Two values of 12 bits in three bytes."""
    bits = "".join(f"{v:012b}" for v in values)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


@pytest.mark.parametrize("kind", ["1", "12", "16", "16 signed", "float", "16 png", "16 pgm"])
def test_a_ramp_is_a_ramp_in_every_depth(kind, tmp_path):
    path, expected = tmp_path / "a.tif", RAMP
    ramp = np.arange(16)
    if kind == "1":
        expected = np.array([[0, 255] * 8])
        Image.fromarray(expected.astype(np.uint8)).convert("1").save(path)
    elif kind == "12":
        tiff(path, 12, packed_12(ramp * 273))  # 0 to 4095
    elif kind == "16":
        tiff(path, 16, (ramp * 4369).astype("<u2").tobytes())  # 0 to 65535
    elif kind == "16 signed":
        tiff(path, 16, (ramp * 2184 + ramp // 2).astype("<i2").tobytes(), kind=2)  # to 32767
    elif kind == "float":
        Image.fromarray((ramp / 15).astype(np.float32).reshape(1, 16)).save(path)
    elif kind == "16 png":
        path = tmp_path / "a.png"
        Image.fromarray((ramp * 4369).astype(np.uint16).reshape(1, 16)).save(path)
    else:
        path = tmp_path / "a.pgm"
        path.write_bytes(b"P5 16 1 65535\n" + (ramp * 4369).astype(">u2").tobytes())
    assert read_image(path, 1)[0].tolist() == expected.tolist()
    assert read_image(path, 3).tolist() == [expected.tolist()] * 3


@pytest.mark.parametrize("kind", ["32", "float above 1", "float below 0", "float nan"])
def test_pixels_of_no_known_range_are_refused_by_name(kind, tmp_path):
    path, ramp = tmp_path / "a.tif", np.arange(16, dtype=np.float32).reshape(1, 16)
    if kind == "32":
        tiff(path, 32, np.arange(16).astype("<u4").tobytes())
        message = "a.tif .*32-bit integers have no known range; save it in 8 or 16 bits"
    else:
        value = {"float above 1": ramp, "float below 0": ramp - 15, "float nan": ramp * np.nan}[
            kind
        ]
        Image.fromarray(value).save(path)
        message = r"a\.tif .*floating-point pixels must be from 0 to 1, got"
    with pytest.raises(ValueError, match=message):
        read_image(path, 1)


@pytest.mark.parametrize("size", [(60, 40), (41, 60), (50, 50), (33, 100)])
def test_crop_is_torchvisions_convention(size, tmp_path):
    """The shorter side to 24 pixels, then the centre."""
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    whole = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(24)])
    expected = np.array(whole(Image.open(tmp_path / "a.png"))).astype(int)
    x = read_image(tmp_path / "a.png", 3, 24, "crop").permute(1, 2, 0).numpy()
    assert np.abs(x - expected).max() <= 1  # Pillow rounds between its two passes
    squeezed = np.array(Image.open(tmp_path / "a.png").resize((24, 24), Image.Resampling.BILINEAR))
    x = read_image(tmp_path / "a.png", 3, 24).permute(1, 2, 0).numpy()
    assert np.abs(x - squeezed.astype(int)).max() <= 1


def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(tmp_path):
    y, x = np.mgrid[:600, :800]
    smooth = np.stack([x / 800 * 255, y / 600 * 255, (np.sin(x / 40) + 1) * 127], 2).astype(
        np.uint8
    )
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    whole = Image.open(tmp_path / "a.jpg").resize((32, 32), Image.Resampling.BILINEAR)
    read = read_image(tmp_path / "a.jpg", 3, 32).permute(1, 2, 0).numpy()
    assert np.abs(read - np.array(whole).astype(int)).mean() < 2


def test_hidden_and_system_files_are_passed_over_but_for_a_folder_that_is_named(tmp_path):
    folder = tmp_path / ".mine"
    for name in ("a.png", "sub/b.png", ".hidden/c.png", "@eaDir/d.png", "sub/__MACOSX/e.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RAMP).save(path)
        Image.fromarray(RAMP).save(path.with_name("._" + path.name))
    found = find_pictures([str(folder), str(folder / ".hidden")])
    assert found == [str(folder / name) for name in ("a.png", "sub/b.png", ".hidden/c.png")]


def test_what_would_start_another_program_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(ValueError, match="cannot be decoded as a picture"):
        read_image(tmp_path / "a.png", 3)
    assert {".png", ".jpg", ".jfif", ".ppm", ".webp", ".tif"} <= extensions()
    assert not extensions() & {".eps", ".ps", ".wmf", ".h5", ".mpg"}


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0"])
def test_a_process_that_ends_in_a_pass_does_not_wait_for_its_workers(end, tmp_path):
    for i in range(64):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    code = f"""
from pathlib import Path
import torch
from torchcnn.data.decode import LazyImages, decode_batches
images = LazyImages(sorted(Path({str(tmp_path)!r}).glob("*.png")), 3, 8, "squeeze")
kept = decode_batches(images, torch.arange(64).split(2), False)
print(len(next(kept)), flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "2\n" and done.returncode == {"": 0, "1 / 0": 1}.get(end, 3)
    assert done.stderr.count("Error") == (end == "1 / 0")
