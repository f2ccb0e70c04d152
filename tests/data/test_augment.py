"""Batched image operations against the libraries that do them an image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional as F

from torchcnn.data.augment import (
    AUGMENTATIONS,
    adjust_colors,
    color_jitter,
    crop,
    cutmix,
    erase,
    flip,
    mixup,
    random_resized_crop,
    resize,
    rotate,
)


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


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.randint(0, 256, (64, 3, 16, 24), dtype=torch.uint8)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(64, 3, 16, 24), (5, 1, 28, 28), (1, 1, 9, 9)])
def test_an_augmentation_is_a_function_of_its_generator(name, shape):
    images, augment = torch.randint(0, 256, shape, dtype=torch.uint8), AUGMENTATIONS[name]
    before = images.clone()
    a, b = augment(images, drawn()), augment(images, drawn())
    assert a.shape == shape and a.dtype == torch.uint8
    assert torch.equal(a, b) and torch.equal(images, before)
    if len(images) > 1:
        assert not torch.equal(a, augment(images, drawn(1))) and not torch.equal(a, images)


def test_a_crop_is_a_slice_of_the_padded_image():
    for image, moved in zip(IMAGES, crop(IMAGES, drawn()), strict=True):
        padded = torch.zeros(3, 20, 30, dtype=torch.uint8)  # 16 / 8 and 24 / 8 on each side
        padded[:, 2:18, 3:27] = image
        windows = [padded[:, y : y + 16, x : x + 24] for y in range(5) for x in range(7)]
        assert any(torch.equal(moved, window) for window in windows)


def test_a_flip_mirrors_about_half_of_the_images():
    y = flip(IMAGES, drawn())
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(IMAGES, y, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(IMAGES, y, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True)) and 16 < sum(mirrored) < 48


def test_a_rotation_turns_as_torchvision_does():
    image = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
    image[0, 0, 4:29, 16] = 255  # an upright line
    turned = rotate(image, drawn(3), degrees=40)[0, 0] > 100
    ys, xs = turned.nonzero().double().T
    slope = float(((ys - 16) * (xs - 16)).sum() / ((ys - 16) ** 2).sum())
    angle = (torch.rand(1, generator=drawn(3)) * 80 - 40) * torch.pi / 180
    assert slope == pytest.approx(float(angle.tan()), abs=0.05) and abs(slope) > 0.1
    assert torch.equal(rotate(IMAGES, drawn(), degrees=0), IMAGES)


def test_color_jitter_is_torchvisions():
    """With the same factors, in this order, each pixel is torchvision's, which rounds at the end.

    The first image is grey, where the hue has no meaning.
    """
    images = torch.cat([IMAGES[:1, :1].expand(-1, 3, -1, -1), IMAGES[:9]])
    factors = [torch.rand(10, 1, 1, 1, generator=drawn(i)) * 0.6 + 0.7 for i in range(3)]
    turn = torch.rand(10, 1, 1, 1, generator=drawn(3)) * 0.2 - 0.1
    ours = adjust_colors(images, *factors, turn)
    for i, image in enumerate(images):
        x = image.float() / 255
        for adjust, factor in zip(
            (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue),
            (*factors, turn), strict=True,
        ):  # fmt: skip
            x = adjust(x, float(factor[i]))
        assert (ours[i] - x * 255).abs().max() < 0.51
    assert torch.equal(color_jitter(IMAGES, drawn(), strength=0), IMAGES)


def test_a_random_crop_is_a_rectangle_of_the_image():
    """Along a slope of 4 levels a pixel the crop has a slope of 4 times its share of the side."""
    column = 4 * torch.arange(64, dtype=torch.uint8).expand(400, 1, 64, 64)
    both = torch.cat([column, column.transpose(2, 3)], 1)
    found = random_resized_crop(both, drawn()).double()
    assert found.min() >= 0 and found.max() <= 252
    inner = found[:, :, 8:56, 8:56]
    width = inner[:, 0].diff(dim=2).mean((1, 2)) / 4
    height = inner[:, 1].diff(dim=1).mean((1, 2)) / 4
    area, ratio = width * height, width / height
    whole = (width > 0.99) | (height > 0.99)  # a side is cut off at the image's
    assert 0.34 < area.min() < 0.4 and 0.9 < area.max() <= 1.01
    assert 0.74 < ratio[~whole].min() < 0.8 and 1.25 < ratio[~whole].max() < 1.35
    middle = found[:, 0, 32, 31:33].mean(1) / 4 + 0.5
    assert middle.std() > 2 and ((middle - 32).abs() <= 32 * (1 - width) + 0.6).all()


@pytest.mark.parametrize(("h", "w"), [(28, 30), (32, 3), (4, 1)])
def test_erase_blackens_a_rectangle_in_half_of_the_images(h, w):
    """Each length from 1 to a third occurs, and every place; of less than 3 pixels it is 1."""
    white = torch.full((4000, 1, h, w), 255, dtype=torch.uint8)
    black = erase(white, drawn())[:, 0] == 0
    black = black[black.flatten(1).any(1)]
    assert 1850 < len(black) < 2150
    heights, widths = black.any(2).sum(1), black.any(1).sum(1)
    assert torch.equal(black.sum((1, 2)), heights * widths)  # a rectangle
    assert set(heights.tolist()) == set(range(1, max(h // 3, 1) + 1))
    assert set(widths.tolist()) == set(range(1, max(w // 3, 1) + 1))
    assert black.any(0).all()


def plain(values, side=16):
    """An image of one colour for each value."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, side, side)


def test_mixup_lays_one_image_over_another_and_the_target_knows_their_shares():
    """Image i is 10 i everywhere and of class i, so that its target tells what it has to be."""
    values = torch.arange(20) * 10
    mixed, targets = mixup(plain(values.tolist()), torch.arange(20), drawn(), 20)
    assert mixed.dtype == torch.uint8 and targets.shape == (20, 20)
    torch.testing.assert_close(targets.sum(1), torch.ones(20))
    assert ((targets > 0).sum(1) <= 2).all()
    assert 10 < int((targets.diagonal() > 0.5).sum() + (targets.diagonal() < 0.5).sum()) <= 20
    expected = (targets @ values.float()).round()
    assert ((mixed[:, 0].float() - expected.view(-1, 1, 1)).abs() <= 1).all()


def test_cutmix_puts_a_rectangle_of_another_image_in_and_the_target_knows_its_area():
    values = (torch.arange(50) + 1).tolist()
    mixed, targets = cutmix(plain(values), torch.arange(50), drawn(), 50)
    rectangles = 0
    for i, image in enumerate(mixed[:, 0]):
        own = image == i + 1
        assert float(targets[i, i]) == pytest.approx(float(own.float().mean()), abs=1e-6)
        if own.all():
            continue
        other = int(image[~own][0])
        assert (image[~own] == other).all() and targets[i, other - 1] > 0
        rows, columns = (~own).any(1), (~own).any(0)
        assert int((~own).sum()) == int(rows.sum()) * int(columns.sum())
        rectangles += 1
    assert rectangles > 30
    shares = targets.diagonal()
    assert 0.4 < float(shares.mean()) < 0.8  # what is cut off at the border stays the image's own
