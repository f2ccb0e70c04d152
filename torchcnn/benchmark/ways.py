"""The ways to train that the benchmark compares; each trains the same network on the same images.

With torch's layers these are the tutorial's loop, this package's loop, and a bound: the same steps
on a single batch that is already on the device. With the hand-written layers they are torch's and
the hand-written layers, eager and compiled, all in this package's loop.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.models import find_model
from torchcnn.models.registry import build_model
from torchcnn.scratch import from_scratch
from torchcnn.training.loop import train_epoch

# The keys of these tables are the values of the flag --layers.
WAYS = {
    "torch": ("tutorial", "torchcnn", "bound"),
    "scratch": ("torch", "by hand", "torch, compiled", "by hand, compiled"),
}
MEMORY_WAYS = {  # the ways whose memory is measured
    "torch": ("tutorial", "torchcnn"),
    "scratch": ("torch", "by hand"),
}
RATIOS = {  # the pairs of ways whose speeds are divided
    "torch": [("torchcnn", "tutorial"), ("torchcnn", "bound")],
    "scratch": [
        ("by hand", "torch"),
        ("by hand, compiled", "torch"),
        ("by hand, compiled", "torch, compiled"),
    ],
}
TUTORIAL_WORKERS = 4  # as in the tutorial's load_data_fashion_mnist


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each way has to train: a network, on the first images of a data set."""

    arch: str
    data: str
    root: str  # the folder of the data sets
    device: torch.device
    images: int  # per epoch, at most
    batch_size: int
    input_size: int  # height and width of the images
    small_input: bool


class TutorialImages(Dataset[tuple[Tensor, int]]):
    """Loads single images as torchvision does, with Pillow, `Resize` and `ToTensor`."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        from torchvision import transforms

        resize = [transforms.Resize(size)] if size != images.shape[-1] else []
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([*resize, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        image = Image.fromarray(self.images[i].permute(1, 2, 0).squeeze(2).numpy())
        return self.transform(image), int(self.labels[i])


def tutorial_epoch(
    net: nn.Module, train_iter: Any, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    """Train for an epoch with the tutorial's loop, which calls `.item()` twice in each step."""
    loss_sum, acc_sum, n = 0.0, 0.0, 0
    for x, y in train_iter:
        x, y = x.to(device), y.to(device)
        y_hat = net(x)
        loss = F.cross_entropy(y_hat, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.cpu().item()
        acc_sum += (y_hat.argmax(dim=1) == y).sum().cpu().item()
        n += len(y)
    return n


class OneBatch:
    """Yields the first batch as many times as there are batches.

    No time is spent on loading, only on the network, the optimizer and the loop.
    """

    def __init__(self, batches: Batches) -> None:
        self.batch, self.count = next(iter(batches)), len(batches.labels) // batches.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return repeat(self.batch, self.count)

    def __len__(self) -> int:
        return self.count


def make_epoch(way: str, task: Task) -> Callable[[], int]:
    """Return a function that trains for an epoch and returns the number of images.

    Each call of `make_epoch` builds a new network and optimizer.

    Raises:
        ValueError: If there are fewer images than a batch has.
    """
    model, device, size = find_model(task.arch), task.device, task.input_size
    data = load_data(task.data, task.root)
    count = min(task.images, len(data.train_labels))
    count -= count % task.batch_size  # only full batches, so that each way makes the same steps
    if not count:
        raise ValueError(f"--images must be at least a batch of {task.batch_size}")
    images, labels = data.train_images[:count], data.train_labels[:count]
    channels = max(images.shape[1], 3 if model.input[0] == 3 else 1)
    images = images.expand(-1, channels, -1, -1).contiguous()

    torch.manual_seed(0)
    small = task.small_input and "small_input" in inspect.signature(model.builder).parameters
    net = build_model(task.arch, channels, len(data.classes), size, "torch", small).to(device)
    fused = way != "tutorial" or None
    optimizer = torch.optim.Adam(net.parameters(), lr=model.recipe.lr, fused=fused)
    if way == "tutorial":
        loader = tutorial_loader(TutorialImages(images, labels, size), task.batch_size)
        return lambda: tutorial_epoch(net, loader, optimizer, device)
    batches = Batches(images, labels, task.batch_size, shuffle=True, size=size, device=device)
    if "by hand" in way:
        net = from_scratch(net)
    if "compiled" in way:
        net.compile()
    source = OneBatch(batches) if way == "bound" else batches
    return lambda: train_epoch(net, source, optimizer).images


def tutorial_loader(images: TutorialImages, batch_size: int) -> DataLoader[tuple[Tensor, int]]:
    # Four workers are intended, even on a machine with fewer cores.
    warnings.filterwarnings("ignore", "This DataLoader will create 4 worker")
    return DataLoader(images, batch_size, shuffle=True, num_workers=TUTORIAL_WORKERS)


def train_once(way: str, task: Task) -> int:
    """Load the images, build the network and train it for one epoch."""
    return make_epoch(way, task)()
