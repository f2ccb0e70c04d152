"""Augmentation of whole batches of uint8 images, on any device.

Random numbers come from a generator on the CPU, so a seed draws the same ones on every device.
To add an augmentation, write a function of (images, generator) and enter it in `AUGMENTATIONS`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images to squares: (n, c, h, w) uint8 -> (n, c, size, size) uint8.

    The interpolation is bilinear with antialiasing, as that of Pillow and of torchvision's
    `Resize`. Pillow rounds between its two passes, so results may differ by one grey level.
    """
    if images.shape[2:] == (size, size):
        return images
    return _to_bytes(F.interpolate(images.float(), size, mode="bilinear", antialias=True))


def _to_bytes(x: Tensor) -> Tensor:
    return x.round_().clamp_(0, 255).to(torch.uint8)


def _beside(images: Tensor, drawn: Tensor) -> Tensor:
    """Copy random numbers from the CPU to the images' device without waiting for it."""
    return drawn.to(images.device, non_blocking=True)


def _uniform(images: Tensor, generator: Generator, low: float, high: float) -> Tensor:
    """Draw a number for each image: (n, 1, 1, 1) float32."""
    drawn = torch.rand(len(images), 1, 1, 1, generator=generator) * (high - low) + low
    return _beside(images, drawn)


def crop(images: Tensor, generator: Generator) -> Tensor:
    """Shift every image by up to an eighth of its side and fill with black: (n, c, h, w) uint8.

    At 32 pixels this is the padding by 4 of He et al. 2015, arXiv:1512.03385.
    """
    n, _, h, w = images.shape
    ph, pw = h // 8, w // 8
    dy = _beside(images, torch.randint(2 * ph + 1, (n,), generator=generator))
    dx = _beside(images, torch.randint(2 * pw + 1, (n,), generator=generator))
    windows = F.pad(images, (pw, pw, ph, ph)).unfold(2, h, 1).unfold(3, w, 1)
    return windows[torch.arange(n, device=images.device), :, dy, dx]


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror an image from left to right with probability 1/2: (n, c, h, w) uint8."""
    return torch.where(_uniform(images, generator, 0, 1) < 0.5, images.flip(3), images)


def rotate(images: Tensor, generator: Generator, degrees: float = 15.0) -> Tensor:
    """Rotate every image about its centre by up to `degrees`: (n, c, h, w) uint8."""
    h, w = images.shape[2:]
    angle = _uniform(images, generator, -degrees, degrees) * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _warp(images, [cos, -sin * h / w, zero, sin * w / h, cos, zero], "zeros")


def random_resized_crop(images: Tensor, generator: Generator, least: float = 0.35) -> Tensor:
    """Enlarge a rectangle of each image to its size: (n, c, h, w) uint8.

    Its area is drawn from `least` to 1 of the image's, and its aspect ratio from 3/4 to 4/3, as in
    torchvision's `RandomResizedCrop`, where the least area is 0.08. The interpolation is bilinear.
    """
    area = _uniform(images, generator, least, 1)
    ratio = _uniform(images, generator, math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
    left, top = (_uniform(images, generator, -1, 1) * (1 - side) for side in (width, height))
    zero = torch.zeros_like(width)
    return _warp(images, [width, zero, left, zero, height, top], "border")


def _warp(images: Tensor, theta: list[Tensor], padding: str) -> Tensor:
    """Take each pixel from where an affine map has it, six numbers (n, 1, 1, 1) for each image."""
    matrix = torch.cat(theta, 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return _to_bytes(F.grid_sample(images.float(), grid, padding_mode=padding, align_corners=False))


def color_jitter(images: Tensor, generator: Generator, strength: float = 0.3) -> Tensor:
    """Change brightness, contrast and, in colour, saturation and hue: (n, c, h, w) uint8.

    The factors are drawn from 1 - `strength` to 1 + `strength`, the turn of the hue from a sixth of
    -`strength` to `strength` of the circle. They mean what they do in torchvision's `ColorJitter`,
    which changes their order at random.
    """
    low, high = 1 - strength, 1 + strength
    brightness, contrast, saturation = (_uniform(images, generator, low, high) for _ in range(3))
    turn = _uniform(images, generator, -strength / 6, strength / 6)
    return adjust_colors(images, brightness, contrast, saturation, turn)


GREY = (0.2989, 0.587, 0.114)  # the share of each colour in the grey that the eye sees


def adjust_colors(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor
) -> Tensor:
    """Apply to each image, in this order, the factors (n, 1, 1, 1): (n, c, h, w) uint8."""
    x = (images.float() * brightness).clamp(0, 255)

    def grey(x: Tensor) -> Tensor:
        weights = torch.tensor(GREY, device=x.device).view(3, 1, 1)
        return (x * weights).sum(1, keepdim=True) if x.shape[1] == 3 else x

    x = torch.lerp(grey(x).mean((1, 2, 3), keepdim=True), x, contrast).clamp(0, 255)
    if x.shape[1] == 3:
        x = torch.lerp(grey(x), x, saturation).clamp(0, 255)
        x = _turn_hue(x, turn)
    return _to_bytes(x)


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of HSV by a part of the circle, (n, 1, 1, 1): (n, 3, h, w) in [0, 255]."""
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - least
    r, g, b = ((x - least) / chroma.clamp(min=1e-6)).split(1, 1)
    hue = torch.where(x[:, 1:2] == value, 2 + b - r, 4 + r - g)
    hue = torch.where(x[:, :1] == value, g - b, hue) + 6 * turn
    # Of red, green and blue, each is a trapezoid along the hue: 1 within a sixth of its own.
    own = torch.tensor([0.0, 2.0, 4.0], device=x.device).view(1, 3, 1, 1)
    distance = ((hue - own + 3) % 6 - 3).abs()
    return least + chroma * (2 - distance).clamp(0, 1)


def erase(images: Tensor, generator: Generator) -> Tensor:
    """Blacken a rectangle of at most a third of the sides: (n, c, h, w) uint8.

    This is done with probability 1/2. The sides are whole pixels, at least one, and all lengths and
    places are as probable. Zhong et al. 2017, arXiv:1708.04896.
    """
    n, _, h, w = images.shape
    r = _beside(images, torch.rand(5, n, 1, 1, 1, generator=generator))
    height, width = (r[1] * (h // 3)).floor() + 1, (r[2] * (w // 3)).floor() + 1
    top, left = (r[3] * (h - height + 1)).floor(), (r[4] * (w - width + 1)).floor()
    return images.masked_fill(_rectangle(images, top, left, height, width) & (r[0] < 0.5), 0)


def _rectangle(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return which pixels lie in the rectangle (n, 1, 1, 1) of each image: (n, 1, h, w) bool."""
    h, w = images.shape[2:]
    y = torch.arange(h, device=images.device).view(h, 1)
    x = torch.arange(w, device=images.device)
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def mixup(
    images: Tensor, labels: Tensor, generator: Generator, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Average each image with another of the batch, with a weight that is drawn from [0, 1].

    (n, c, h, w) uint8, (n,) int64 -> (n, c, h, w) uint8, (n, num_classes) float32: the target has
    both classes with these weights. Zhang et al. 2017, arXiv:1710.09412, with alpha 1.
    """
    other = _beside(images, torch.randperm(len(images), generator=generator))
    share = _uniform(images, generator, 0, 1)
    mixed = torch.lerp(images[other].float(), images.float(), share)
    return mixed.round_().to(torch.uint8), _targets(labels, other, share, num_classes)


def cutmix(
    images: Tensor, labels: Tensor, generator: Generator, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch into each; shapes are those of `mixup`.

    Its area is drawn from [0, 1] of the image, its centre from the image, at whose border it is
    cut off. Yun et al. 2019, arXiv:1905.04899.
    """
    n, _, h, w = images.shape
    other = _beside(images, torch.randperm(n, generator=generator))
    side = _uniform(images, generator, 0, 1).sqrt()
    r = _beside(images, torch.rand(2, n, 1, 1, 1, generator=generator))
    top, left = r[0] * h - side * h / 2, r[1] * w - side * w / 2
    inside = _rectangle(images, top, left, side * h, side * w)
    kept = 1 - inside.float().mean((2, 3), keepdim=True)
    mixed = torch.where(inside, images[other], images)
    return mixed, _targets(labels, other, kept, num_classes)


def _targets(labels: Tensor, other: Tensor, share: Tensor, num_classes: int) -> Tensor:
    one_hot = F.one_hot(labels, num_classes).float()
    return torch.lerp(one_hot[other], one_hot, share.view(-1, 1))


Augmentation = Callable[[Tensor, Generator], Tensor]
AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": crop,
    "flip": flip,
    "rotate": rotate,
    "color-jitter": color_jitter,
    "random-resized-crop": random_resized_crop,
    "erase": erase,
}
Mix = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]  # num_classes is bound
MIXES = {"mixup": mixup, "cutmix": cutmix}
