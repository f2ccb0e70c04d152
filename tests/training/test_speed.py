"""Precision by a rule, and CUDA graphs; `test_cuda` has what these compute."""

import gc
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchcnn.evaluate import main as evaluate
from torchcnn.train import main as train
from torchcnn.training import speed
from torchcnn.training.config import Config
from torchcnn.training.recipes import fast
from torchcnn.training.speed import GraphedNetwork, can_be_graphed, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("units", "device", "arch", "amp", "channels_last", "expected"),
    [
        (True, CUDA, "lenet", "auto", "auto", ("bf16", True)),
        (False, CUDA, "lenet", "auto", "auto", ("off", False)),
        (False, CUDA, "lenet", "fp16", "auto", ("fp16", True)),
        (True, CPU, "lenet", "auto", "auto", ("bf16", True)),
        (True, CPU, "lenet", "auto", False, ("bf16", False)),
        (True, CPU, "tf_baseline", "auto", "auto", ("off", False)),  # slower, as measured
        (True, CUDA, "tf_baseline", "auto", "auto", ("bf16", True)),
        (False, CPU, "lenet", "auto", "auto", ("off", False)),
        (False, CPU, "lenet", "bf16", True, ("bf16", True)),  # nothing is asked
    ],
)
def test_the_rule(units, device, arch, amp, channels_last, expected, monkeypatch):
    monkeypatch.setattr(speed, "has_bf16_units", lambda device: units)
    assert choose_precision(amp, channels_last, arch, device) == expected


def test_a_run_evaluates_in_its_precision(tmp_path, capsys, tenth_of_the_sample):
    """The command finds the accuracy of the run again, to the last digit, in bfloat16."""
    out = tmp_path / "run"
    flags = ["--arch", "mlp", "--data", "sample", "--device", "cpu", "--epochs", "1"]
    train([*flags, "--amp", "bf16", "--channels-last", "auto", "--out", str(out)])
    result = json.loads((out / "result.json").read_text())
    assert json.loads((out / "config.json").read_text())["channels_last"] in (True, False)
    capsys.readouterr()
    evaluate(["--checkpoint", str(out), "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["loss"] == result["test_loss"]


@pytest.fixture
def capture(monkeypatch):
    """Stand in for the capture: pass three times, and replace `forward`, as torch does."""
    seen, collected = [], []

    def make(net, args, allow_unused_input):
        for _ in range(3):
            net(*args)
        stream = torch.cuda.graph.default_capture_stream
        seen.append((args[0], torch.is_autocast_cache_enabled(), torch.is_autocast_enabled("cpu")))
        assert collected and stream is None
        net.forward = lambda x: "graphed"

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", "that of another GPU")
    monkeypatch.setattr(gc, "collect", lambda: collected.append(True))
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


def test_gradients_that_are_left_are_refused(capture):
    """The graph would write over them, where a pass of the network itself adds to them."""
    net = nn.Linear(2, 1)
    graphed = GraphedNetwork(net, (3, 2))
    net(torch.ones(3, 2)).sum().backward()
    graphed(torch.ones(2, 2))  # not a whole batch
    with pytest.raises(ValueError, match=r"call zero_grad\(\) first"):
        graphed(torch.ones(3, 2))
    net.zero_grad()
    assert graphed(torch.ones(3, 2)) == "graphed"


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
