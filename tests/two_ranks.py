"""What `test_ranks` runs under torchrun, and by itself for one rank; prints JSON."""

import json
import sys

import torch
from torch import nn

from torchcnn import create_model
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.layers.sync_batch_norm import sync_batch_norm
from torchcnn.training.distributed import World, gather_steps, join
from torchcnn.training.loop import train_steps


def train(arch: str, sync_bn: bool, world: World) -> dict[str, list[float]]:
    """Ten steps in float64: the loss of each, and sums over the weights and the statistics."""
    torch.manual_seed(0)
    data = load_data("sample")
    net = create_model(arch, in_channels=1, input_size=28).double()
    if sync_bn:
        net = sync_batch_norm(net, world.world_size)
    batches = Batches(data.train_images[:1000], data.train_labels[:1000], 100, shuffle=True,
                      share=(world.rank, world.world_size))  # fmt: skip
    # Not Adam: it makes a step of the noise in the zero gradients of biases before a batch norm.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    doubles = ((x.double(), y) for x, y in batches)
    parallel = world.data_parallel(net, torch.zeros(1, 1, 28, 28).double())
    steps = gather_steps(list(train_steps(parallel, doubles, optimizer)), world)
    sums = [float(p.detach().square().sum()) for p in net.parameters()]
    statistics = [float(b.double().sum()) for b in net.buffers()]
    return {"losses": [float(s.loss) for s in steps], "correct": [int(s.correct) for s in steps],
            "images": [s.images for s in steps], "weights": sums,
            "statistics": statistics if sync_bn else []}  # fmt: skip


def same_on_all(net: nn.Module, world: World) -> bool:
    world.broadcast(net)
    return all(
        torch.equal(*world.all_gather(p.detach())) for p in (*net.parameters(), *net.buffers())
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join(torch.device("cpu")) as world:
        results = {name: train(name.rstrip("+"), "+" in name, world) for name in sys.argv[1:]}
        torch.manual_seed(world.rank)
        net = create_model("lenet")
        print(json.dumps(results | {
            "copied": same_on_all(net, world), "largest": world.all_reduce_max(world.rank + 5),
        }))  # fmt: skip
