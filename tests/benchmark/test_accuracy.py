"""The seconds until an accuracy is reached: the arithmetic by hand, and small runs."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from torchcnn.benchmark import __main__ as benchmark
from torchcnn.benchmark import accuracy, ways
from torchcnn.benchmark.accuracy import Epoch
from torchcnn.data import datasets
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.training.loop import evaluate_accuracy

TASK = benchmark.Config(data="sample", device="cpu", images=320, batch_size=32).task("mlp")


@pytest.fixture
def in_this_process(monkeypatch):
    """Run what has a process of its own here, without workers."""

    @contextmanager
    def here():
        yield lambda work, *arguments: work(*arguments)

    monkeypatch.setattr(ways, "TUTORIAL_WORKERS", 0)
    monkeypatch.setattr(accuracy, "own_process", here)
    named = dict(datasets.DATASETS)
    yield
    datasets.DATASETS.clear()  # what a process adds to them ends with it
    datasets.DATASETS.update(named)


def test_the_same_accuracy_reaches_the_target():
    """The mean of equal numbers is that number, to the last bit."""
    equal = [[Epoch(0.1, 3.0)]] * 3
    assert accuracy.compared(equal, [[Epoch(0.1, 1.0)]] * 3)["ratios"] == [3.0] * 3


def test_the_table_and_the_json_tell_all_of_it():
    """The tutorial's way ends with 0.8 and 0.9 after 30 and 50 seconds; `fast` passes 0.85.

    The first epoch that does counts, also if a later one is worse again; another seed never does.
    """
    tutorial = [[Epoch(0.95, 10.0), Epoch(0.8, 30.0)], [Epoch(0.5, 20.0), Epoch(0.9, 50.0)]]
    fast = [[Epoch(0.84, 4.0), Epoch(0.86, 8.0), Epoch(0.7, 12.0)], [Epoch(0.84, 1.0)]]
    told = json.loads(json.dumps(accuracy.compared(tutorial, fast)))
    head, row = accuracy.report({"lenet": told}).splitlines()
    columns = ["epochs, tutorial", "s, tutorial", "epochs, fast", "s, fast", "tutorial / fast"]
    assert [name.strip() for name in head.split("  ") if name] == ["target", *columns]
    assert row.split("  ")[0] == "lenet" and row.split()[1:4] == ["0.8500", "2", "40.0"]
    assert row.endswith("2, -  8.0, not reached  2.50 (0.00 to 5.00)")
    assert told["target"] == pytest.approx(0.85) and told["tutorial_seconds"] == 40
    assert told["fast_epochs"] == [2, None] and told["fast_seconds"] == [8.0, None]
    assert told["ratios"] == [5.0, 0.0]
    assert told["tutorial"][0][1] == {"accuracy": 0.8, "seconds": 30.0}
    assert len(told["fast"][0]) == 3


def test_the_tutorials_evaluation_equals_that_of_this_package():
    """In eval mode, though it leaves the network in training mode."""
    sample, task = load_data("sample"), ways.Task(**vars(TASK) | {"arch": "lenet"})
    images, labels = sample.test_images[:100], sample.test_labels[:100]
    net = ways.build_network(task, 1, 10)
    ways.tutorial_epoch(
        net, Batches(images, labels, 10), torch.optim.Adam(net.parameters()), task.device
    )
    batches = Batches(images, labels, 32)
    assert accuracy.tutorial_accuracy(net, batches, task.device) == pytest.approx(
        evaluate_accuracy(batches, net)
    )
    assert net.training


def test_a_run_of_the_tutorial_follows_the_recipe(in_this_process, monkeypatch):
    """Five epochs of ten steps with Adam at 0.001 for the MLP; all test images are evaluated."""
    trained, evaluated = [], []

    def train(net, train_iter, optimizer, device):
        trained.append((type(optimizer), optimizer.param_groups[0]["lr"], len(train_iter)))

    def evaluate(net, test_iter, device):
        evaluated.append(len(test_iter.dataset))
        return len(evaluated) / 10

    monkeypatch.setattr(accuracy, "tutorial_epoch", train)
    monkeypatch.setattr(accuracy, "tutorial_accuracy", evaluate)
    run = accuracy.tutorial_run(TASK, 0)
    assert trained == [(torch.optim.Adam, 0.001, 10)] * 5
    assert evaluated == [1000] * 5
    assert [epoch.accuracy for epoch in run] == [0.1, 0.2, 0.3, 0.4, 0.5]
    seconds = [epoch.seconds for epoch in run]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_seed_is_that_of_weights_and_order(in_this_process, monkeypatch):
    seen = []

    def train(net, train_iter, optimizer, device):
        seen.append((next(net.parameters()).sum().item(), next(iter(train_iter))[1].tolist()))

    monkeypatch.setattr(accuracy, "tutorial_epoch", train)
    monkeypatch.setattr(accuracy, "tutorial_accuracy", lambda *_: 0.5)
    for seed in (0, 1, 0):
        accuracy.tutorial_run(TASK, seed)
    first, other, again = seen[0], seen[5], seen[10]
    assert first == again and first[0] != other[0] and first[1] != other[1]


def test_fast_trains_on_the_same_images_in_silence(in_this_process, capsys, monkeypatch):
    """Its clock starts with the call."""
    asked = []
    monkeypatch.setattr(accuracy.time, "time", lambda: 100.0)

    def train(**flags):
        print("what train prints")
        asked.append(flags)
        data = load_data(flags["data"])
        assert torch.equal(data.train_images, load_data("sample").train_images[:320])
        assert len(data.train_labels) == 320 and len(data.test_labels) == 1000
        records = [SimpleNamespace(eval_acc=0.5, time=103.0, seconds=1.0)]
        return SimpleNamespace(history=records)

    assert accuracy.fast_run(TASK, 3, train) == [Epoch(0.5, 3.0)]
    assert capsys.readouterr().out == ""
    (flags,) = asked
    assert flags["recipe"] == "fast" and flags["val_fraction"] == 0 and flags["seed"] == 3
    assert flags["arch"] == "mlp" and flags["device"] == "cpu" and flags["root"] == "data"
    assert "input_size" not in flags and "batch_size" not in flags


def test_the_command_trains_both_ways(in_this_process, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "--to-accuracy --arch softmax_regression --images 320 --seeds 1 --batch-size 32"
    benchmark.main([*flags.split(), "--data", "sample", "--device", "cpu", "--json"])
    out, err = capsys.readouterr()
    result = json.loads(out)
    runs = result["networks"]["softmax_regression"]
    assert result["seeds"] == 1 and len(runs["tutorial"]) == len(runs["fast"]) == 1
    assert runs["target"] == runs["tutorial"][0][-1]["accuracy"] > 0.3
    # Of so few images `fast` makes 300 steps.
    assert (len(runs["tutorial"][0]), len(runs["fast"][0])) == (5, 30)
    for way in ("tutorial", "fast"):
        seconds = [epoch["seconds"] for epoch in runs[way][0]]
        assert seconds == sorted(seconds) and seconds[0] > 0
    lines = err.splitlines()
    assert [line.rsplit(": ", 1)[0] for line in lines] == [
        "softmax_regression: tutorial, seed 0",
        "softmax_regression: fast, seed 0",
    ]
    last = runs["tutorial"][0][-1]
    assert lines[0].endswith(f": {last['accuracy']:.3f} after {last['seconds']:.1f} s")
    assert not list(tmp_path.iterdir())
