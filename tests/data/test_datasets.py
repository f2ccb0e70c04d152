"""Images: what is found, what is refused, and that nothing foreign is believed."""

import gzip
import hashlib
import pickle
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from torchcnn.data import datasets as data
from torchcnn.data.datasets import ImageData, in_channels, load_data


def test_the_sample_is_balanced():
    sample = load_data("sample")
    assert sample.train_images.shape == (5000, 1, 28, 28)
    assert sample.test_images.shape == (1000, 1, 28, 28)
    assert sample.train_images.dtype == torch.uint8
    assert sample.train_labels.bincount().tolist() == [500] * 10
    assert sample.test_labels.bincount().tolist() == [100] * 10


def test_the_whole_set_is_the_published_one(real_fashion_mnist):
    """The md5 that Zalando publishes is that of its .gz files: put their headers back.

    A gzip header holds the name and the time of the file; Debian's have neither, and the same
    deflated bytes. The times are those that give back the published sums.
    """
    published = {
        "train-images-idx3-ubyte": (1504176606, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        "train-labels-idx1-ubyte": (1504176606, "25c81989df183df01b3e8a0aad5dffbe"),
        "t10k-images-idx3-ubyte": (1504176627, "bef4ecab320f06d8554ea6380940ec79"),
        "t10k-labels-idx1-ubyte": (1504176627, "bb300cfdad3c16e7a12a480ee83cd310"),
    }
    for name, (mtime, md5) in published.items():
        packed = (real_fashion_mnist / f"{name}.gz").read_bytes()
        with_header = (
            packed[:3] + b"\x08" + struct.pack("<I", mtime) + packed[8:10]
            + name.encode() + b"\0" + packed[10:]
        )  # fmt: skip
        assert hashlib.md5(with_header).hexdigest() == md5
    whole = load_data("auto", "/nowhere/data")
    assert whole.name == "fashion-mnist" and str(real_fashion_mnist) in whole.note
    assert whole.train_labels.bincount().tolist() == [6000] * 10
    assert whole.test_images.shape == (10000, 1, 28, 28)


def test_the_sample_is_the_first_of_each_class_of_the_whole_set(real_fashion_mnist):
    whole, sample = load_data("fashion-mnist"), load_data("sample")
    for part, count in (("train", 500), ("test", 100)):
        images, labels = (f"{part}_{what}" for what in ("images", "labels"))
        of_class = [(getattr(whole, labels) == c).nonzero()[:count, 0] for c in range(10)]
        first = torch.cat(of_class).sort().values  # in their original order
        for what in (images, labels):
            assert torch.equal(getattr(sample, what), getattr(whole, what)[first])


@pytest.mark.parametrize(
    ("place", "packed"), [("", True), ("fashion-mnist", True), ("FashionMNIST/raw", False)]
)
def test_fashion_mnist_is_found_under_root(idx_folder, tmp_path, monkeypatch, place, packed):
    monkeypatch.setattr(data, "FASHION_MNIST_MD5", data.SAMPLE_MD5)
    folder = tmp_path / "root" / place
    folder.mkdir(parents=True)
    for path in idx_folder.iterdir():
        if packed:
            shutil.copy(path, folder)
        else:
            (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    found = load_data("fashion-mnist", tmp_path / "root")
    assert torch.equal(found.train_images, load_data("sample").train_images)
    assert str(folder) in found.note


def test_auto_takes_the_sample_and_says_why(tmp_path):
    taken = load_data("auto", tmp_path)
    assert taken.name == "sample"
    assert "only the embedded" in taken.note and "cannot be downloaded" in taken.note
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        load_data("fashion-mnist", tmp_path)
    with pytest.raises(ValueError, match="there are auto, fashion-mnist"):
        load_data("mnist", tmp_path)


def test_a_download_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.undo()  # the real _download
    root = tmp_path / "data"

    class Broken:
        def __init__(self, folder, download):
            (tmp_path / "seen").touch()
            (type(tmp_path)(folder) / "half").write_bytes(b"...")
            raise RuntimeError("File not found or corrupted.\nsecond line")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", Broken)
    with pytest.raises(FileNotFoundError, match=r"\(File not found or corrupted.\)$"):
        data._download("FashionMNIST", root)
    assert (tmp_path / "seen").exists() and not root.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "is cut short or damaged"),
        (lambda path: path.write_bytes(b"<html>not here</html>"), "is cut short or damaged"),
        (lambda path: path.write_bytes(b""), "md5 .* expected"),
        (lambda path: path.unlink(), "holds .* but not .*train-images"),
    ],
)
def test_a_damaged_file_is_named(idx_folder, monkeypatch, damage, message):
    monkeypatch.setattr(data, "FASHION_MNIST_MD5", data.SAMPLE_MD5)
    damage(idx_folder / "train-images-idx3-ubyte.gz")
    for name in ("fashion-mnist", "auto"):  # which takes no sample in its place
        with pytest.raises(ValueError, match=message) as error:
            load_data(name, idx_folder)
        assert "train-images" in str(error.value)


def test_another_set_of_the_same_form_is_refused(idx_folder):
    """MNIST has the same file names, and mirrors have served it under the other's name."""
    with pytest.raises(ValueError, match=r"of another data set: md5 5ea3.*, expected f4a8"):
        load_data("fashion-mnist", idx_folder)


@pytest.fixture
def cifar10_root(tmp_path, monkeypatch):
    """CIFAR-10's files in their true format, four images each, with their own md5."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    lists, label = {"train_list": [], "test_list": []}, 0
    for kind in lists:
        for name, _ in getattr(CIFAR10, kind):
            pixels = np.arange(4 * 3072, dtype=np.int64).reshape(4, 3072) % 251 + label
            content = {"data": pixels.astype(np.uint8), "labels": [label] * 4}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
            lists[kind].append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
            label += 1
        monkeypatch.setattr(CIFAR10, kind, lists[kind])
    names = {"label_names": ["airplane", *"bcdefghij"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    md5 = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5})
    return tmp_path


def test_cifar10_is_read(cifar10_root):
    cifar = load_data("cifar10", cifar10_root)
    assert cifar.train_images.shape == (20, 3, 32, 32) and cifar.test_images.shape == (4, 3, 32, 32)
    assert cifar.train_images.dtype == torch.uint8 and cifar.train_images.is_contiguous()
    # The file holds a picture as 1024 red, 1024 green, 1024 blue, row by row.
    assert cifar.train_images[0, 1, 2, 3] == (1024 + 2 * 32 + 3) % 251
    assert cifar.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert cifar.test_labels.tolist() == [5] * 4
    assert cifar.classes[0] == "airplane"


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_a_foreign_cifar10_file_is_not_unpickled(cifar10_root):
    path = cifar10_root / CIFAR10.base_folder / "data_batch_3"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"data_batch_3 is damaged"):
        load_data("cifar10", cifar10_root)
    path.unlink()
    with pytest.raises(ValueError, match="holds no data_batch_3"):
        load_data("cifar10", cifar10_root)


def test_channels_are_converted_as_pillow_does():
    pixels = torch.randint(0, 256, (3, 3, 50, 40), dtype=torch.uint8)
    colour = ImageData("c", ("a",), pixels, torch.zeros(3), pixels[:1], torch.zeros(1))
    grey = in_channels(colour, 1)
    for image, converted in zip(pixels, grey.train_images, strict=True):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
        assert np.array_equal(converted[0].numpy(), np.array(expected))
    again = in_channels(grey, 3)
    assert torch.equal(again.test_images, grey.test_images.repeat(1, 3, 1, 1))
    assert in_channels(colour, 3).train_images.data_ptr() == pixels.data_ptr()
    with pytest.raises(ValueError, match="images have 1 or 3 channels, not 4"):
        in_channels(colour, 4)
