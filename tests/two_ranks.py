"""What `test_distributed` runs on several ranks, and by itself for one; `main` prints JSON."""

import json
import os
import signal
from collections import Counter
from copy import deepcopy
from unittest.mock import patch

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from torchcnn import BatchNorm, create_model
from torchcnn import train as cli
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.layers import KerasBatchNorm2d
from torchcnn.training import distributed, trainer
from torchcnn.training.distributed import World, gather_steps, join, with_signal
from torchcnn.training.ema import MovingAverage
from torchcnn.training.loop import StepOptions, train_steps
from torchcnn.training.signals import StopRequest
from torchcnn.training.sync_batch_norm import sync_batch_norm


def train(arch: str, sync_bn: bool, world: World, parts: int = 1, batch: int = 20, n: int = 100):
    """Five steps in float64: the loss of each, and sums over the weights and the statistics."""
    torch.manual_seed(0)
    data = load_data("sample")
    net = create_model(arch, in_channels=1, input_size=28).double()
    if sync_bn:
        net = sync_batch_norm(net, world.world_size)
    batches = Batches(data.train_images[:n], data.train_labels[:n], batch, shuffle=True,
                      share=(world.rank, world.world_size))  # fmt: skip
    # Not Adam: it makes a step of the noise in the zero gradients of biases before a batch norm.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    doubles = ((x.double(), y) for x, y in batches)
    parallel = world.data_parallel(net, torch.zeros(1, 1, 28, 28).double())
    taken = train_steps(parallel, doubles, optimizer, options=StepOptions(accumulation_steps=parts))
    steps = gather_steps(list(taken), world)
    sums = [float(p.detach().square().sum()) for p in net.parameters()]
    statistics = [float(b.double().sum()) for b in net.buffers()]
    return {"losses": [float(s.loss) for s in steps], "correct": [int(s.correct) for s in steps],
            "images": [s.images for s in steps], "weights": sums,
            "statistics": statistics if sync_bn else []}  # fmt: skip


def same_on_all(tensors, world: World) -> bool:
    return all(torch.equal(*world.all_gather(t.detach())) for t in tensors)


class OwnNorm(nn.Module):
    """A norm that is not torch's: it subtracts the moving mean in training, too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 1, 28, 28))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean(0, keepdim=True), 0.1)
        return x - self.mean


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(norm, nn.Flatten(), nn.Linear(784, 10))


def check_buffers(net: nn.Module, world: World, finds_need=distributed._may_read_buffers):
    """Train without DDP's broadcasts of buffers, if there is no need of them, and with them."""
    generator = torch.Generator().manual_seed(world.rank)
    batches = [
        (torch.rand(12, 1, 28, 28, generator=generator), torch.arange(12) % 10) for _ in range(5)
    ]
    states, own = [], []
    for may_read in (finds_need, lambda _: True):
        copy = deepcopy(net)
        ema, optimizer = MovingAverage(copy, 0.9), torch.optim.SGD(copy.parameters(), lr=0.1)
        with patch.object(distributed, "_may_read_buffers", may_read):
            parallel = world.data_parallel(copy, batches[0][0])
        options = StepOptions(ema=ema, accumulation_steps=2)
        list(train_steps(parallel, batches, optimizer, options=options))
        tensors = [*copy.state_dict().values(), *ema.module.state_dict().values()]
        states.append([t.clone() for t in tensors])
        own.append(same_on_all(copy.parameters(), world) and not same_on_all(tensors, world))
        for module in (copy, ema.module):
            world.broadcast(module, buffers_only=True)
        own.append(same_on_all(tensors, world))
    return {
        # What the main rank saves; the other's buffers are its own until the epoch ends.
        "as_with_broadcasts": all(map(torch.equal, *states)) or not world.is_main,
        "equal_only_after_the_epoch": all(own),
    }


def count_exchanges(world: World) -> dict[str, int]:
    """What the ranks exchange in five steps of four parts, with batch norm."""
    net = create_model("lenet")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = [(torch.rand(8, 1, 28, 28), torch.arange(8))] * 5
    parallel = world.data_parallel(net, batches[0][0])
    steps = train_steps(parallel, batches, optimizer, options=StepOptions(accumulation_steps=4))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        list(with_signal(steps, StopRequest(patience=True), world))
    return Counter(e.name for e in profiler.events() if e.name.startswith("gloo:"))


def stops_after(world: World, at: int) -> list[int]:
    """The last step of each rank, of nine, if one of them gets a signal in step `at`."""
    last = 0
    with StopRequest(patience=True) as stop:

        def steps():
            for i in range(1, 10):
                if world.rank == 1 and i == at:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield i

        for step, signum in with_signal(steps(), stop, world):
            last = step
            if signum:
                break
    return [int(n) for n in world.all_gather(torch.tensor(last))]


def main(networks: list[str]) -> None:
    with join() as world:
        results = {name: train(name.rstrip("+"), "+" in name, world) for name in networks}
        results["accumulated"] = train("mlp", False, world, parts=4, batch=110, n=450)
        results["buffers"] = {
            "torch": check_buffers(normed(nn.BatchNorm2d(1)), world),
            "scratch": check_buffers(normed(BatchNorm(1)), world),
            "keras": check_buffers(normed(KerasBatchNorm2d(1)), world),
            "own": check_buffers(normed(OwnNorm()), world),
            "own, not broadcast": check_buffers(normed(OwnNorm()), world, lambda _: False),
        }
        results["exchanges"] = count_exchanges(world)
        results["stops"] = {at: stops_after(world, at) for at in (1, 4, 8, 9)}
        torch.manual_seed(world.rank)
        net = create_model("lenet")
        world.broadcast(net)
        results["copied"] = same_on_all([*net.parameters(), *net.buffers()], world)
        print(json.dumps(results | {"largest": world.all_reduce_max(world.rank + 5)}))


def train_with_other_seed(flags: list[str]) -> None:
    """Train; the last of three ranks has another seed, and so other images to train on."""
    cli.main([*flags, "--seed", "001"[int(os.environ["RANK"])]])


def train_until_a_signal(at: int, flags: list[str]) -> None:
    """Train; the second rank gets a signal in step `at`."""
    made = []

    def signalled(*args):
        for step in train_steps(*args):
            made.append(step)
            if os.environ["RANK"] == "1" and len(made) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step

    with patch.object(trainer, "train_steps", signalled):
        cli.main(flags)
