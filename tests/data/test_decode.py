"""Pictures on disk: every kind becomes bytes, by its true range, or is refused by name."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from torchvision.transforms import functional

from torchcnn.data.decode import extensions, find_pictures, read_image

RAMP = np.linspace(0, 255, 16).round().astype(np.uint8).reshape(1, 16)  # 0, 17, 34, ... 255


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_the_pixels_of_a_picture_are_its_own(mode, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 3), np.uint8)
    path = tmp_path / ("m.tiff" if mode == "CMYK" else "m.png")
    Image.fromarray(pixels).convert(mode).save(path)
    assert np.array_equal(read_image(path, 3).permute(1, 2, 0).numpy(), pixels)
    assert read_image(path, 1).shape == (1, 5, 8)
    with pytest.raises(ValueError, match="has 1 or 3 channels, not 2"):
        read_image(path, 2)


TURNED = {  # EXIF's definition: which row and column of what is stored are seen above and left
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: x.T[:, ::-1],
    7: lambda x: x.T[::-1, ::-1],
    8: lambda x: x.T[::-1],
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    "kind", ["jpg", "png", "png 16", "webp", "avif", "tif", "tif lzw", "tif 16", "tif 1"]
)
def test_the_orientation_is_applied_once_in_every_format(kind, orientation, tmp_path):
    """Four quadrants of other greys. Pillow turns a TIFF while it loads it, and nothing else."""
    extension, _, depth = kind.partition(" ")
    if f".{extension}" not in extensions():
        pytest.skip("this Pillow does not read it")
    pixels = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((24, 40), np.uint8))
    image = Image.fromarray(pixels)
    if depth == "16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif depth == "1":
        pixels = (pixels == 80).astype(np.uint8) * 255
        image = Image.fromarray(pixels).convert("1")
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"compression": "tiff_lzw"} if depth == "lzw" else {}
    options |= {"lossless": True} if extension == "webp" else {}
    path = tmp_path / f"a.{extension}"
    image.save(path, exif=exif, **options)
    expected = TURNED[orientation](pixels.astype(int))
    for channels in (1, 3):
        x = read_image(path, channels)
        assert x.shape[1:] == expected.shape and np.abs(x[0].numpy() - expected).max() <= 6
        corners = [read_image(path, channels, 8)[0, i, j] for i in (0, 7) for j in (0, 7)]
        corners_expected = [expected[i, j] for i in (0, -1) for j in (0, -1)]
        assert np.abs(np.subtract(corners, corners_expected)).max() <= 6  # reduced in decoding


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's; the commands do not show it
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


STEPS = np.arange(16)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("12.tif",  # 0 to 4095, each of them three hexadecimal digits
         lambda path: tiff(path, 12, bytes.fromhex("".join(f"{v * 273:03x}" for v in STEPS)))),
        ("16.tif", lambda path: tiff(path, 16, (STEPS * 4369).astype("<u2").tobytes())),
        ("signed.tif",  # to 32767
         lambda path: tiff(path, 16, (STEPS * 2184 + STEPS // 2).astype("<i2").tobytes(), kind=2)),
        ("float.tif",
         lambda path: Image.fromarray((STEPS / 15).astype(np.float32).reshape(1, 16)).save(path)),
        ("16.pgm", lambda path: path.write_bytes(
            b"P5 16 1 65535\n" + (STEPS * 4369).astype(">u2").tobytes())),
    ],
)  # fmt: skip
def test_a_ramp_is_a_ramp_in_every_depth(name, write, tmp_path):
    """Of 1, 2, 4 and 8 bits, and of PNG, see the test of its transparent value."""
    write(tmp_path / name)
    for channels in (1, 3):
        assert read_image(tmp_path / name, channels).tolist() == [RAMP.tolist()] * channels


def test_pixels_of_no_known_range_are_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    tiff(path, 32, STEPS.astype("<u4").tobytes())
    with pytest.raises(ValueError, match="32-bit integers have no known range; save it in 8 or"):
        read_image(path, 1)
    for pixels in (STEPS, STEPS - 15, STEPS * np.nan):
        Image.fromarray(pixels.astype(np.float32).reshape(1, 16)).save(path)
        message = r"a\.tif .*floating-point pixels must be from 0 to 1, got"
        with pytest.raises(ValueError, match=message):
            read_image(path, 1)


SHAPES = [(60, 40), (41, 60), (50, 50), (33, 100), (3, 7), (23, 24), (24, 500), (500, 24),
          (2, 4000), (4000, 2), (1, 50), (7, 1000), (100, 1300), (129, 140)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_crop_is_torchvisions_convention(shape, tmp_path):
    """The shorter side to 24 pixels or more, then the centre; enlarged or reduced, however thin."""
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    picture, path = Image.fromarray(pixels), tmp_path / "a.png"
    picture.save(path)
    # Pillow rounds between its two passes: a level or two.
    for resize, edge, most in (("crop", 24, 1), ("crop-232", 25, 2), ("crop-256", 27, 2)):
        theirs = functional.center_crop(functional.resize(picture, edge), 24)
        ours = read_image(path, 3, 24, resize).int()
        assert (ours - functional.pil_to_tensor(theirs).int()).abs().max() <= most
    squeezed = functional.pil_to_tensor(picture.resize((24, 24), Image.Resampling.BILINEAR))
    if max(shape) < 144:  # else it is reduced first
        assert (read_image(path, 3, 24).int() - squeezed.int()).abs().max() <= 1


def test_a_thin_picture_takes_little_memory_and_a_large_one_is_read_without_a_word(tmp_path):
    """8,000 × 2 pixels, which cropping would enlarge to 896,000 × 224, and 95 megapixels."""
    Image.new("RGB", (8000, 2), (10, 20, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (9747, 9747), (10, 20, 30)).save(tmp_path / "b.jpg")
    code = f"""
import resource
from torchcnn.data.decode import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for resize in ("crop", "squeeze"):
    x = read_image({str(tmp_path / "a.png")!r}, 3, 224, resize)
    assert x.shape == (3, 224, 224) and x[:, 0, 0].tolist() == [10, 20, 30]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
assert read_image({str(tmp_path / "b.jpg")!r}, 1, 8).shape == (1, 8, 8)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert int(done.stdout) < 200_000  # kB; the whole would take 2.4 GB


def test_a_bomb_is_refused_in_one_line(tmp_path):
    png(tmp_path / "b.png", 1, 0, b"", b"\0\0", 180_000_000)
    with pytest.raises(ValueError, match=r"^.*b\.png cannot be decoded .*180000000 pixels.*$"):
        read_image(tmp_path / "b.png", 1, 8)


def test_hidden_and_system_files_are_passed_over_but_for_a_folder_that_is_named(tmp_path):
    folder = tmp_path / ".mine"
    for name in ("a.png", "sub/b.png", ".hidden/c.png", "@eaDir/d.png", "sub/__MACOSX/e.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RAMP).save(path)
        Image.fromarray(RAMP).save(path.with_name("._" + path.name))
    found = find_pictures([str(folder), str(folder / ".hidden")])
    assert found == [str(folder / name) for name in ("a.png", "sub/b.png", ".hidden/c.png")]


def png(path, bits, colour, row, transparent, width):
    """A PNG of one row, with a chunk tRNS and, for colour 3, a palette of four greys."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(np.repeat([10, 60, 120, 240], 3).tolist()))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette * (colour == 3)
                     + chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row))
                     + chunk(b"IEND", b""))  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent", "expected"),
    [
        (1, 0, b"\xa0", b"\0\1", [0, 0, 0, 0]),
        (2, 0, b"\x1b", b"\0\2", [0, 85, 0, 255]),
        (4, 0, b"\x05\xaf", b"\0\x0a", [0, 85, 0, 255]),
        (8, 0, b"\1\5\x09\xff", b"\0\5", [1, 0, 9, 255]),
        (16, 0, b"\x80\x80\x80\x81\xff\xff\0\0", b"\x80\x80", [0, 128, 255, 0]),
        (8, 2, b"\1\1\1\5\5\5\5\5\6", b"\0\5\0\5\0\5", [1, 0, 5]),
        (16, 2, b"\x80\x11\x80\x11\x80\x11" + b"\x90\0" * 3, b"\x80\x11" * 3, [0, 144]),
        (8, 3, b"\0\1\2\3", b"\xff\0\x80", [10, 0, 60, 240]),
        (2, 3, b"\x1b", b"\xff\0", [10, 0, 120, 240]),
    ],
)
def test_the_transparent_value_of_a_png_is_black_in_every_depth(
    bits, colour, row, transparent, expected, tmp_path
):
    """The value is that of the file's own bits: in 16 bits, 0x8080 is not 0x8081."""
    png(tmp_path / "a.png", bits, colour, row, transparent, len(expected))
    for channels in (1, 3):
        assert read_image(tmp_path / "a.png", channels)[0, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa"])
def test_every_kind_of_transparency_is_laid_on_black(mode, tmp_path):
    """Opaque 200, 200 at an alpha of 51, and what is hidden; `a` is multiplied by the alpha."""
    if mode == "La" and (b"II", 1, (1,), 1, (8, 8), (1,)) not in TiffImagePlugin.OPEN_INFO:
        pytest.skip("this Pillow does not read it")
    path, associated = tmp_path / "a.tif", mode.endswith("a")
    grey = np.array([[200, 40, 0] if associated else [200, 200, 200]], np.uint8)
    bands = [grey] * (len(mode) - 1) + [np.array([[255, 51, 0]], np.uint8)]
    Image.merge(mode.upper(), [Image.fromarray(band) for band in bands]).save(path)
    if associated:  # the tag of the kind of the extra sample is 338
        kinds = [struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1)]
        path.write_bytes(path.read_bytes().replace(*kinds))
    for channels in (1, 3):
        assert read_image(path, channels)[:, 0].tolist() == [[200, 40, 0]] * channels


def test_lab_is_read_in_grey_too(tmp_path):
    Image.new("LAB", (2, 2), (128, 128, 128)).save(tmp_path / "a.tif")
    grey, colour = (read_image(tmp_path / "a.tif", channels) for channels in (1, 3))
    assert torch.equal(grey[0], colour[0]) and 100 < grey.min() == grey.max() < 130


def test_pictures_behind_links_are_found_once(tmp_path):
    """By their own names if they lie in the folder; links that lead back end nothing."""
    inside, outside = tmp_path / "p", tmp_path / "elsewhere"
    for path in (inside / "z" / "1.png", inside / "b" / "2.png", outside / "3.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RAMP).save(path)
    for name, target in (("a", "z"), ("b/back", ".."), ("far", "../elsewhere"), ("self", ".")):
        (inside / name).symlink_to(inside.joinpath(name).parent / target)
    (outside / "home").symlink_to(inside)
    (outside / "4.png").symlink_to(inside / "z" / "1.png")
    found = [str(inside / name) for name in ("b/2.png", "far/3.png", "far/4.png", "z/1.png")]
    assert find_pictures([str(inside)]) == found


def test_what_would_start_another_program_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(ValueError, match="cannot be decoded as a picture"):
        read_image(tmp_path / "a.png", 3)
    assert {".png", ".jpg", ".jfif", ".ppm", ".webp", ".tif"} <= extensions()
    assert not extensions() & {".eps", ".ps", ".wmf", ".h5", ".mpg"}


@pytest.mark.parametrize(("resize", "box"), [("squeeze", (0, 0, 1000, 750)),
                                             ("crop", (125, 0, 875, 750))])  # fmt: skip
def test_a_photo_has_about_the_pixels_of_an_exact_resize(resize, box, tmp_path):
    """A PNG of less than three times the size has exactly them; a JPEG is decoded at a half."""
    y, x = np.mgrid[:750, :1000]
    waves = [np.sin(x / a + y / b) for a, b in ((40, 23), (11, 70), (5, 9))]
    pixels = np.stack([127 + 60 * waves[0] + 40 * wave + 20 * waves[2] for wave in waves], 2)
    photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for name, mean, most in (("a.png", 0, 0), ("a.jpg", 1, 12)):
        photo.save(tmp_path / name, quality=95)
        with Image.open(tmp_path / name) as file:
            exact = np.array(file.resize((300, 300), Image.Resampling.BILINEAR, box)).astype(int)
        ours = read_image(tmp_path / name, 3, 300, resize).permute(1, 2, 0).numpy()
        difference = abs(ours - exact)
        assert difference.mean() <= mean and difference.max() <= most, name
