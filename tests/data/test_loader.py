"""Batches: every image once, with its label, in the order that seed and epoch say."""

import pytest
import torch

from torchcnn import load_data_fashion_mnist
from torchcnn.data import loader
from torchcnn.data.loader import Batches


def numbered(n, size=2):
    """Images that say which they are, and labels that say the same."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, size, size)
    return images.contiguous(), torch.arange(n)


def test_batches_are_all_images_once_as_floats_with_their_labels():
    shuffled = Batches(*numbered(10), 4, shuffle=True)
    given = list(shuffled)
    assert len(shuffled) == len(given) == 3
    assert [len(y) for _, y in given] == [4, 4, 2]
    x, y = (torch.cat(parts) for parts in zip(*given, strict=True))
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    torch.testing.assert_close(x[:, 0, 0, 0], y / 255, rtol=1e-7, atol=0)
    assert y.sort().values.tolist() == list(range(10)) != y.tolist()
    in_order = torch.cat([y for _, y in Batches(*numbered(10), 4)])
    assert in_order.tolist() == list(range(10))


def test_the_order_is_a_function_of_seed_and_epoch():
    def orders(seed, epochs, first=0):
        shuffled = Batches(*numbered(50), 50, shuffle=True, seed=seed)
        shuffled.epoch = first
        return [next(iter(shuffled))[1].tolist() for _ in range(epochs)]

    assert orders(1, 3) == orders(1, 3)
    assert orders(1, 3)[2] == orders(1, 1, first=2)[0]  # a resumed run needs no history
    assert len({tuple(order) for order in orders(1, 3) + orders(2, 3)}) == 6


def test_resizing_once_or_batchwise_gives_the_same(monkeypatch):
    images = torch.randint(0, 256, (7, 3, 9, 9), dtype=torch.uint8)
    once = Batches(images, torch.arange(7), 3, size=16)
    monkeypatch.setattr(loader, "RESIZE_ONCE_BYTES", 0)
    batchwise = Batches(images, torch.arange(7), 3, size=16)
    assert once.images.shape == (7, 3, 16, 16) and batchwise.images is images
    assert Batches(images, torch.arange(7), 3, size=9).images is images  # nothing to resize
    for (a, _), (b, _) in zip(once, batchwise, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("images", "labels", "batch_size", "message"),
    [
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2), 1, "2 labels"),
        (torch.zeros(3, 1, 2, 2), torch.zeros(3), 1, "float32 images"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3), 1, r"got \(3, 2, 2\)"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3), 0, "at least 1, got 0"),
    ],
)
def test_batches_refuse(images, labels, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Batches(images, labels, batch_size)


def test_load_data_fashion_mnist_is_the_tutorials(real_fashion_mnist):
    train_iter, test_iter = load_data_fashion_mnist(256, resize=32)
    x, y = next(iter(train_iter))
    assert x.shape == (256, 1, 32, 32) and x.dtype == torch.float32 and y.shape == (256,)
    assert x.min() >= 0 and 0.9 < x.max() <= 1
    assert len(train_iter) == 235 and len(test_iter) == 40
