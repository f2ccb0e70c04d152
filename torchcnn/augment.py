"""Whole batches of images at once: functions of uint8 tensors, on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, size: int) -> Tensor:
    """Resize to squares: (n, c, h, w) uint8 -> (n, c, size, size) uint8.

    Bilinear with antialiasing, which is what Pillow does, and torchvision's `Resize` with it;
    equal to both within one grey level (Pillow rounds between its two passes).
    """
    if images.shape[2:] == (size, size):
        return images
    y = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return y.round_().clamp_(0, 255).to(torch.uint8)
