"""The ways to train that the benchmark compares; each trains the same network on the same images.

By default these are the tutorial's loop, this package's loop, and a bound: the same steps on a
single batch that is already on the device. On a GPU this package's loop launches CUDA graphs, and
is also measured without them. With `--layers scratch` they are torch's and the hand-written layers,
eager and compiled, all in this package's loop. With `--versus keras` they are this package's loop
and Keras, in a process of its own (see `versus`).
"""

import inspect
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.models import create_model, find_model
from torchcnn.scratch import from_scratch
from torchcnn.training.loop import train_epoch
from torchcnn.training.recipes import source
from torchcnn.training.speed import (
    GraphedNetwork,
    autocast,
    choose_precision,
    compile_network,
    describe,
)

# The keys of these tables are the values of the flag --versus, "scratch" of the flag --layers, and
# "cuda" is "tutorial" on a GPU, where this package's loop launches CUDA graphs.
WAYS = {
    "tutorial": ("tutorial", "torchcnn", "bound"),
    "cuda": ("tutorial", "torchcnn", "torchcnn, no graphs", "bound"),
    "scratch": ("torch", "by hand", "torch, compiled", "by hand, compiled"),
    "keras": ("keras", "torchcnn", "torchcnn, auto"),
}
RATIOS = {  # the pairs of ways whose speeds are divided
    "tutorial": [("torchcnn", "tutorial"), ("torchcnn", "bound")],
    "cuda": [("torchcnn", "tutorial"), ("torchcnn", "bound"), ("torchcnn, no graphs", "bound")],
    "scratch": [
        ("by hand", "torch"),
        ("by hand, compiled", "torch"),
        ("by hand, compiled", "torch, compiled"),
    ],
    "keras": [("torchcnn", "keras"), ("torchcnn, auto", "keras")],
}
TUTORIAL_WORKERS = 4  # as in the tutorial's load_data_fashion_mnist
Trained = tuple[int, float]  # images of an epoch, and seconds


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each way has to train: a network, on the first images of a data set."""

    arch: str
    data: str
    root: str  # the folder of the data sets
    device: torch.device
    images: int  # per epoch, at most; 0: all of the data set
    batch_size: int
    input_size: int  # height and width of the images
    small_input: bool


class Way(NamedTuple):
    """A way to train, ready for its first epoch."""

    train_epoch: Callable[[], Trained]
    chose: str = ""  # what it chose itself, in words


def timed(train: Callable[[], int]) -> Callable[[], Trained]:
    """Return a function that times `train()`, which returns the number of images."""

    def train_epoch() -> Trained:
        began = time.perf_counter()
        images = train()
        return images, time.perf_counter() - began

    return train_epoch


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


def prepare(task: Task) -> tuple[nn.Module, Tensor, Tensor]:
    """Build the network, on the CPU, and read the images and labels, the same in every process.

    The images (n, c, h, w) are uint8, at their own size.

    Raises:
        ValueError: If there are fewer images than a batch has.
    """
    data = load_data(task.data, task.root)
    count = min(task.images or len(data.train_labels), len(data.train_labels))
    count -= count % task.batch_size  # only full batches, so that each way makes the same steps
    if not count:
        raise ValueError(f"--images must be at least a batch of {task.batch_size}")
    images, labels = data.train_images[:count], data.train_labels[:count]
    channels = max(images.shape[1], 3 if find_model(task.arch).input[0] == 3 else 1)
    images = images.expand(-1, channels, -1, -1).contiguous()
    torch.manual_seed(0)
    return build_network(task, channels, len(data.classes)), images, labels


def build_network(task: Task, channels: int, classes: int) -> nn.Module:
    """Build the network for images of so many channels, with new weights."""
    known = inspect.signature(find_model(task.arch).builder).parameters
    options = {"small_input": True} if task.small_input and "small_input" in known else {}
    return create_model(
        task.arch, task.input_size, in_channels=channels, num_classes=classes, **options
    )


def make_way(way: str, task: Task) -> Way:
    """Return one of the ways that train in this process, with a network of its own.

    Raises:
        ValueError: If there are fewer images than a batch has.
    """
    net, images, labels = prepare(task)
    size, device = task.input_size, task.device
    net.to(device)
    fused = way != "tutorial" or None
    optimizer = torch.optim.Adam(net.parameters(), lr=source(task.arch)["lr"], fused=fused)
    if way == "tutorial":
        loader = tutorial_loader(images, labels, task)
        return Way(timed(lambda: tutorial_epoch(net, loader, optimizer, device)))
    batches = Batches(images, labels, task.batch_size, shuffle=True, size=size, device=device)
    options: dict[str, Any] = {}
    amp, chose = "off", ""
    if "auto" in way:
        amp, channels_last = choose_precision("auto", "auto", task.arch, device)
        if channels_last:  # else as it was built, which GoogLeNet is in this format
            net.to(memory_format=torch.channels_last)
        options, chose = {"autocast": autocast(amp, device)}, describe(amp, channels_last)
    if device.type == "cuda" and way in ("torchcnn", "torchcnn, auto"):
        net = GraphedNetwork(net, next(iter(batches))[0].shape, amp)
    if "by hand" in way:
        net = from_scratch(net)
    if "compiled" in way:
        compile_network(net, graphs=device.type == "cuda")
    # The bound has its first batch again and again, so that no time is spent on loading.
    train_iter = [next(iter(batches))] * len(batches) if way == "bound" else batches
    return Way(timed(lambda: train_epoch(net, train_iter, optimizer, **options).images), chose)


def tutorial_loader(
    images: Tensor, labels: Tensor, task: Task, shuffle: bool = True
) -> DataLoader[tuple[Tensor, int]]:
    # The system's own way to start them, in a process that was itself started in another way, too.
    context = get_all_start_methods()[0] if TUTORIAL_WORKERS else None
    # Four workers are intended, even on a machine with fewer cores. Each pass would warn of them.
    warnings.filterwarnings("ignore", "This DataLoader will create 4 worker")
    return DataLoader(
        TutorialImages(images, labels, task.input_size),
        task.batch_size,
        shuffle=shuffle,
        num_workers=TUTORIAL_WORKERS,
        multiprocessing_context=context,
    )
