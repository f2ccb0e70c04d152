"""Batched image operations against the libraries that do them an image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from torchcnn.augment import resize


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("h", "w", "size"), [(28, 28, 96), (28, 28, 13), (31, 20, 32), (32, 32, 15)]
)
def test_resize_is_within_a_grey_level_of_pillow(channels, h, w, size):
    images = torch.randint(0, 256, (5, channels, h, w), dtype=torch.uint8)
    ours = resize(images, size)
    assert ours.dtype == torch.uint8 and ours.shape == (5, channels, size, size)
    for image, result in zip(images, ours, strict=True):
        pixels = image.permute(1, 2, 0).squeeze(2).numpy()
        resized = transforms.Resize((size, size))(Image.fromarray(pixels))
        expected = torch.from_numpy(np.array(resized)).view(size, size, channels).permute(2, 0, 1)
        assert (result.int() - expected.int()).abs().max() <= 1


def test_resize_to_its_own_size_is_free():
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert resize(images, 28) is images
