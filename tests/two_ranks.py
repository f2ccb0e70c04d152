"""What `test_distributed` runs under torchrun, and by itself for one rank; prints JSON."""

import json
import os
import signal
import sys
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from torchcnn import create_model
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.training.distributed import World, gather_steps, join, with_signal
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join() as world:
        results = {name: train(name.rstrip("+"), "+" in name, world) for name in sys.argv[1:]}
        results["accumulated"] = train("mlp", False, world, parts=4, batch=110, n=450)
        results["exchanges"] = count_exchanges(world)
        results["stops"] = {at: stops_after(world, at) for at in (1, 4, 8, 9)}
        torch.manual_seed(world.rank)
        net = create_model("lenet")
        world.broadcast(net)
        copies = [world.all_gather(t.detach()) for t in net.state_dict().values()]
        results["copied"] = all(torch.equal(*pair) for pair in copies)
        print(json.dumps(results | {"largest": world.all_reduce_max(world.rank + 5)}))
