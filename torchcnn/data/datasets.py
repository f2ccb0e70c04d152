"""The data sets, as uint8 tensors: found on this machine or downloaded, and checked by md5.

To add one, write a function of `root` that returns an `ImageData`, and enter it in `DATASETS`.
"""

import contextlib
import gzip
import hashlib
import http.client
import os
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
SAMPLE_FOLDER = Path(__file__).parent / "sample"

FASHION_MNIST_CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

# The md5 of the content, not of the .gz: Debian's files have other gzip headers than Zalando's.
# With Zalando's file name and time put back they have the md5 that Zalando publishes.
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
SAMPLE_MD5 = {
    "train-images-idx3-ubyte": "5ea348305eca07bfe76ed7f42143dabf",
    "train-labels-idx1-ubyte": "a1647a8931db75920068476cfb1909a4",
    "t10k-images-idx3-ubyte": "c5442ce2f064c32bf3ec2983a505322f",
    "t10k-labels-idx1-ubyte": "a00963b89d54a5ab6dc42b2b2c57c0e7",
}

DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer


@dataclass(frozen=True)
class ImageData:
    """A data set in memory: images (n, c, h, w) uint8, labels (n,) int64.

    The images of a folder that does not fit into memory are `torchcnn.data.decode.LazyImages`.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    note: str = ""  # where it was found, or why it was chosen
    val_images: Tensor | None = None  # if the data set has a part to validate on
    val_labels: Tensor | None = None
    names: dict[str, list[str]] = field(default_factory=dict)  # of a folder's pictures, by part
    ids: dict[str, Tensor] = field(default_factory=dict)  # (n,) int64, see `identity.Picture`
    digests: dict[str, str] = field(default_factory=dict)  # of the pictures of each part


def load_data(name: str = "auto", root: str | Path = "data") -> ImageData:
    """Return a whole data set by its name in `DATASETS`.

    `auto` is Fashion-MNIST if it is on this machine or can be downloaded, else the embedded sample;
    `note` says which and why. A damaged data set is an error, also for `auto`.

    Raises:
        ValueError: an unknown name, or a file that is cut short, corrupted or of another data set.
        FileNotFoundError: the data set is not on this machine and cannot be downloaded.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name](Path(root).expanduser())


def in_channels(data: ImageData, channels: int) -> ImageData:
    """Return a data set with its grey images repeated in 3 channels, or its coloured ones in grey.

    Grey is 0.299 red + 0.587 green + 0.114 blue, as Pillow computes it for pictures on disk.

    Raises:
        ValueError: another number of channels than 1 or 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {channels}")
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)

    def convert(images: Tensor) -> Tensor:
        if channels >= images.shape[1]:
            return images.expand(-1, channels, -1, -1)
        parts = ((part * weights).sum(1, keepdim=True) + 2**15 >> 16 for part in images.split(1000))
        return torch.cat([part.to(torch.uint8) for part in parts])

    train, test = convert(data.train_images), convert(data.test_images)
    return replace(data, train_images=train, test_images=test)


def auto(root: Path) -> ImageData:
    try:
        return fashion_mnist(root)
    except FileNotFoundError as error:
        return replace(sample(root), note=f"only the embedded 5,000 + 1,000 images: {error}")


def fashion_mnist(root: Path) -> ImageData:
    """Fashion-MNIST (arXiv:1708.07747): 60,000 + 10,000 grey images of 28×28 pixels."""
    places = (root, root / "fashion-mnist", root / "FashionMNIST" / "raw", DEBIAN_FOLDER)
    folder = next((p for p in places if _idx_files(p)), None)
    if folder is None:
        _download("FashionMNIST", root)
        folder = root / "FashionMNIST" / "raw"
    return _grey_data("fashion-mnist", folder, FASHION_MNIST_MD5, f"from {folder}")


def sample(root: Path) -> ImageData:
    """The first 500 + 100 images of each class of Fashion-MNIST, which are in this package."""
    note = "the embedded 5,000 + 1,000 images of Fashion-MNIST"
    return _grey_data("sample", SAMPLE_FOLDER, SAMPLE_MD5, note)


def _grey_data(name: str, folder: Path, md5: dict[str, str], note: str) -> ImageData:
    x_train, y_train, x_test, y_test = load_idx(folder, md5)
    train, test = (x_train.unsqueeze(1), y_train.long()), (x_test.unsqueeze(1), y_test.long())
    return ImageData(name, FASHION_MNIST_CLASSES, *train, *test, note)


def _idx_files(folder: Path) -> dict[str, Path]:
    """Find those of the four files that there are, packed or, which comes first, not."""
    names = FASHION_MNIST_MD5
    places = ((name, folder / f"{name}{end}") for end in (".gz", "") for name in names)
    return {name: path for name, path in places if path.is_file()}


def load_idx(folder: Path, md5: dict[str, str]) -> list[Tensor]:
    """Read training images and labels, test images and labels of a set in IDX format.

    The files may be compressed (.gz). Images are (n, h, w) uint8, labels (n,) uint8.

    Raises:
        ValueError: a file is missing or damaged, or its content is not the one whose `md5` is
            given; the message names the file.
    """
    found = _idx_files(folder)
    if missing := [name for name in md5 if name not in found]:
        raise ValueError(
            f"{folder} holds {', '.join(sorted(found))} but not {', '.join(missing)}; "
            "choose another --root, or remove them all to have the set downloaded"
        )
    return [_read_idx(found[name], expected) for name, expected in md5.items()]


def _read_idx(path: Path, md5: str) -> Tensor:
    """Read numbers of 8 bits; that the file is whole is known by its md5."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut short or damaged ({error})") from error
    _check_md5(path, content, md5)
    dims = content[3]
    shape = struct.unpack_from(f">{dims}I", content, 4)
    header = 4 + 4 * dims
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(shape)


def _check_md5(path: Path, content: bytes, expected: str) -> None:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != expected:
        raise ValueError(
            f"{path} is damaged or of another data set: md5 {md5}, expected {expected}; "
            "choose another --root, or remove it to have it downloaded"
        )


def cifar10(root: Path) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32×32 pixels."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    if not folder.is_dir():
        _download("CIFAR10", root)
    # torchvision unpickles these files, so only the published ones, byte for byte, are read.
    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}; remove the folder to download it anew")
        _check_md5(folder / name, (folder / name).read_bytes(), md5)
    train, test = (CIFAR10(str(root), train=train) for train in (True, False))
    x_train, x_test = (
        torch.from_numpy(np.ascontiguousarray(d.data.transpose(0, 3, 1, 2))) for d in (train, test)
    )  # (n, h, w, c) -> (n, c, h, w)
    y_train, y_test = torch.tensor(train.targets), torch.tensor(test.targets)
    return ImageData(
        "cifar10", tuple(train.classes), x_train, y_train, x_test, y_test, f"from {folder}"
    )


def _download(dataset: str, root: Path) -> None:
    """Let torchvision download a data set; `root` gets all of it or nothing."""
    import torchvision

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torchvision sets none and would hang
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as folder:
            getattr(torchvision.datasets, dataset)(folder, download=True)
            for path in Path(folder).iterdir():
                os.replace(path, root / path.name)
    except (OSError, EOFError, RuntimeError, http.client.HTTPException) as error:
        with contextlib.suppress(OSError):
            root.rmdir()  # if it was made here, it is empty
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise FileNotFoundError(
            f"{dataset} is not under {root} and cannot be downloaded ({reason})"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


DATASETS: dict[str, Callable[[Path], ImageData]] = {
    "auto": auto,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "sample": sample,
}
