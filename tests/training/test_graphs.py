"""CUDA graphs: when they are used, and what is captured. `test_cuda` has what they compute."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchcnn.training.config import Config
from torchcnn.training.graphs import GraphedNetwork, can_be_graphed
from torchcnn.training.recipes import fast


@pytest.fixture
def capture(monkeypatch):
    """Stand in for the capture: pass three times, and replace `forward`, as torch does."""
    seen = []

    def make(net, args, allow_unused_input):
        for _ in range(3):
            net(*args)
        seen.append((args[0], torch.is_autocast_cache_enabled(), torch.is_autocast_enabled("cpu")))
        net.forward = lambda x: "graphed"

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    return seen


def test_whole_batches_in_training_take_the_graph(capture):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graphed = GraphedNetwork(net.eval(), (4, 1, 5, 5))
    x, _, autocast = capture[0]
    assert x.shape == (4, 1, 5, 5) and x.dtype == torch.float32 and not autocast
    whole, rest = torch.rand(4, 1, 5, 5), torch.rand(3, 1, 5, 5)
    assert graphed.train()(whole) == "graphed"
    assert isinstance(net(whole), torch.Tensor)  # which is not changed
    assert graphed(rest).shape == (3, 2, 3, 3)
    assert graphed.eval()(whole).shape == (4, 2, 3, 3)
    net.load_state_dict(before)
    GraphedNetwork(net, (4, 1, 5, 5))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_it_is_captured_in_the_precision_of_training_and_with_frozen_norms(capture):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).requires_grad_(False))
    GraphedNetwork(net, (4, 1, 5, 5), "bf16")
    assert capture[0][1:] == (False, True)  # as make_graphed_callables demands
    assert net.training and not net[1].training


@pytest.mark.parametrize(
    ("flags", "batches", "expected"),
    [
        ({}, {}, True),
        ({}, {"labels": SimpleNamespace(is_cuda=False)}, False),
        ({}, {"share": (0, 2)}, False),  # two ranks
        ({}, {"count": 99}, False),  # no batch is whole
        ({"accumulate": 2}, {}, False),
        ({"layers": "scratch"}, {}, False),
        ({"arch": "Own"}, {}, False),  # a module of your own
    ],
)
def test_when_passes_are_graphs(flags, batches, expected):
    config = Config(**fast("lenet") | {"batch_size": 100} | flags)
    defaults = {"labels": SimpleNamespace(is_cuda=True), "share": (0, 1), "count": 100}
    assert can_be_graphed(config, SimpleNamespace(**defaults | batches)) == expected
