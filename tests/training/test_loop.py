"""The loop: right numbers, any batches, and none of the tutorials' faults."""

import copy
import functools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcnn import BatchNorm, create_model, evaluate_accuracy, load_data_fashion_mnist, train_ch5
from torchcnn.data.augment import AUGMENTATIONS, MIXES
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.training.config import Config
from torchcnn.training.distributed import World
from torchcnn.training.ema import MovingAverage
from torchcnn.training.loaders import make_loaders, split
from torchcnn.training.loop import (
    StepOptions,
    confusion_matrix,
    epoch_result,
    eval_mode,
    predict_logits,
    train_epoch,
    train_steps,
)
from torchcnn.training.optim import OPTIMIZERS, make_optimizer
from torchcnn.training.plan import make_spec
from torchcnn.training.speed import GraphedNetwork
from torchcnn.training.state import TrainState


def flat(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


def toy(n=10, classes=3):
    return torch.randn(n, 1, 2, 2), torch.randint(0, classes, (n,))


def batches_of(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


def sgd(net, lr=0.0):
    return torch.optim.SGD(net.parameters(), lr=lr)


def test_the_body_learns_at_a_share_of_the_rate_of_the_head():
    """SGD moves each weight by its gradient times the rate, and times 0.1 below the head."""
    net = create_model("lenet").double()
    before = copy.deepcopy(net)
    batch = (torch.rand(4, 1, 28, 28, dtype=torch.float64), torch.arange(4))
    optimizer = make_optimizer(net, "sgd", lr=1.0, body_lr=0.1)
    list(train_steps(net, [batch], optimizer, options=StepOptions(learning_rates=[0.5])))
    for (name, now), then in zip(net.named_parameters(), before.parameters(), strict=True):
        rate = 0.5 if name.startswith("head.") else 0.05
        torch.testing.assert_close(now, then - rate * now.grad, rtol=1e-12, atol=1e-12)
    assert optimizer.param_groups[0]["lr"] == 0.5  # the head's, which is logged


def test_the_loss_is_the_mean_over_images_not_over_batches():
    """Batches of 4, 4 and 2: with lr 0 the epoch's loss is that of all images at once."""
    net, (x, y) = flat(nn.Linear(4, 3)), toy()
    expected = F.cross_entropy(net(x), y).item()
    result = train_epoch(net, batches_of(x, y, 4), sgd(net))
    assert result.loss == pytest.approx(expected, abs=1e-6)
    assert result.images == 10
    assert result.accuracy == pytest.approx((net(x).argmax(1) == y).float().mean().item())
    steps = [F.cross_entropy(net(a), b).item() for a, b in batches_of(x, y, 4)]
    torch.testing.assert_close(result.step_losses, torch.tensor(steps))
    again = train_epoch(net, batches_of(x, y, 4), sgd(net))  # nothing is carried into it
    assert (again.loss, again.accuracy) == (result.loss, result.accuracy)


def test_the_steps_are_those_of_gradient_descent():
    """Two steps by hand: w <- w - lr * dl/dw, each with the gradient of its own batch alone."""
    net, (x, y) = flat(nn.Linear(4, 3)), toy()
    twin = copy.deepcopy(net)
    for x_batch, y_batch in batches_of(x, y, 5):
        loss = F.cross_entropy(twin(x_batch), y_batch)
        grads = torch.autograd.grad(loss, list(twin.parameters()))
        for p, grad in zip(twin.parameters(), grads, strict=True):
            p.data -= 0.5 * grad
    train_epoch(net, batches_of(x, y, 5), sgd(net, lr=0.5))
    torch.testing.assert_close(net.state_dict(), twin.state_dict())


def test_training_is_in_train_mode_whatever_came_before():
    net = flat(BatchNorm(4, 2), nn.Linear(4, 3)).eval()
    train_epoch(net, batches_of(*toy(), 5), sgd(net))
    assert net.training and net[1].moving_mean.any()


@pytest.mark.parametrize(
    ("mix", "optimizer"), [(None, "sgd"), ("mixup", "adam"), ("cutmix", "adamw")]
)
def test_no_step_reads_from_the_device(mix, optimizer):
    """On the meta device whatever reads a number raises, as the end of an epoch does.

    Fused optimizers do not run on it; the test on a GPU has those.
    """
    images, labels = torch.zeros(20, 1, 12, 12, dtype=torch.uint8), torch.zeros(20).long()
    batches = Batches(
        images, labels, 6, shuffle=True, size=8, augment=list(AUGMENTATIONS.values()),
        mix=mix and functools.partial(MIXES[mix], num_classes=10), device="meta",
    )  # fmt: skip
    with torch.device("meta"):
        layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), BatchNorm(3), nn.Flatten(), nn.Dropout()]
        net = nn.Sequential(*layers, nn.Linear(3 * 6 * 6, 10))
    options = StepOptions(
        learning_rates=[0.1] * 4,
        loss=functools.partial(F.cross_entropy, label_smoothing=0.1),
        clip=1.0,
        accumulation_steps=2,
        ema=MovingAverage(net, 0.9),
    )
    unfused = OPTIMIZERS[optimizer](net.parameters(), lr=0.1, weight_decay=0.1)
    steps = list(train_steps(net, batches, unfused, options=options))
    assert len(steps) == 4 and all(step.loss.is_meta and step.correct.is_meta for step in steps)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        epoch_result(steps, began=0.0)


def test_evaluation_gives_the_modes_back():
    """A layer that was frozen in a network that trains is still frozen afterwards."""
    net = flat(nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    net[2].eval()
    evaluate_accuracy(batches_of(*toy(20), 2), net)
    assert not net[1].num_batches_tracked  # it was evaluated in eval mode
    assert (net.training, net[1].training, net[2].training) == (True, True, False)
    with pytest.raises(RuntimeError, match="inside"), eval_mode(net):
        assert not net.training
        raise RuntimeError("inside")
    assert net.training


def test_evaluate_accuracy_counts_images_not_batches():
    """3 of 4 right in the first batch, 0 of 1 in the second: 3 / 5, not the mean 3 / 8."""
    x = torch.eye(3)[[0, 1, 2, 0, 1]]
    y = torch.tensor([0, 1, 2, 1, 0])
    assert evaluate_accuracy(batches_of(x, y, 4), lambda x: x) == 0.6
    assert evaluate_accuracy(batches_of(x, y, 4), nn.Identity()) == 0.6


def test_predict_logits_keeps_the_order_and_no_graph():
    net, (x, y) = flat(nn.Dropout(0.5), nn.Linear(4, 3)), toy()
    logits, labels = predict_logits(net, batches_of(x, y, 3))
    assert torch.equal(labels, y) and not logits.requires_grad
    torch.testing.assert_close(logits, net.eval()(x).detach())


def test_the_confusion_matrix_has_the_truth_in_its_rows():
    """Two of class 0, both taken for class 2; one of class 1, seen as such."""
    logits = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    confusion = confusion_matrix(logits, torch.tensor([0, 0, 1]))
    assert confusion.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_one_hot_labels_are_trained_and_evaluated(capsys):
    """The same losses and accuracies as with the labels' numbers."""
    histories = []
    for one_hot in (False, True):
        torch.manual_seed(0)
        x, y = toy(20)
        labels = F.one_hot(y, 3).float() if one_hot else y
        net = flat(nn.Linear(4, 3))
        batches = batches_of(x, labels, 5)
        histories.append(train_ch5(net, batches, batches, 5, sgd(net, 0.1), "cpu", 2))
    for a, b in zip(*histories, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_no_batch_at_all_is_an_error():
    net = flat(nn.Linear(4, 3))
    for function in (lambda empty: train_epoch(net, empty, sgd(net)),
                     lambda empty: evaluate_accuracy(empty, net)):  # fmt: skip
        with pytest.raises(ValueError, match="gave no batch"):
            function(iter([]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_step(bad):
    net, (x, y) = flat(nn.Linear(4, 3)), toy()
    x[5, 0, 0, 0] = bad
    with pytest.raises(FloatingPointError, match=r"became (nan|inf) at step 2 of 3"):
        train_epoch(net, batches_of(x, y, 4), sgd(net))


@pytest.mark.parametrize("kind", ["batches", "data loader", "list"])
def test_train_ch5_prints_the_tutorials_lines_for_any_batches(kind, capsys):
    sample = load_data("sample")
    images, labels = sample.test_images[:300], sample.test_labels[:300]
    batches = Batches(images, labels, 64, shuffle=True)
    if kind == "data loader":
        batches = DataLoader(TensorDataset(images / 255, labels), 64)
    if kind == "list":
        batches = list(batches)
    net = create_model("lenet")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    history = train_ch5(net, batches, batches, 64, optimizer, torch.device("cpu"), 2)
    first, *lines = capsys.readouterr().out.splitlines()
    acc = r"acc \d\.\d{3}"
    pattern = rf"epoch [12], loss (\d\.\d{{4}}), train {acc}, test {acc}, time \d+\.\d sec"
    losses = [float(re.fullmatch(pattern, line)[1]) for line in lines]
    assert first == "training on cpu" and len(losses) == 2 and losses[1] < losses[0]
    assert [round(epoch["train_loss"], 4) for epoch in history] == losses
    assert history[-1]["test_acc"] == evaluate_accuracy(batches, net)


@pytest.mark.slow
def test_lenet_learns_as_fast_as_the_tutorials(real_fashion_mnist):
    """By its recipe, Adam at 1e-3 in batches of 256, on all images; its log is of two networks,
    with the norm by hand and with torch's, and begins with the training accuracies below.
    """
    torch.manual_seed(0)
    train_iter, test_iter = load_data_fashion_mnist(256)
    net = create_model("lenet")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    history = train_ch5(net, train_iter, test_iter, 256, optimizer, "cpu", 2)
    first, second = (epoch["train_acc"] for epoch in history)
    assert 0.767 - 0.02 < first < 0.790 + 0.02 and 0.851 - 0.01 < second < 0.866 + 0.01


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("graphed", [False, True])
@pytest.mark.parametrize("flags", [
    {}, {"ema": 0.9, "clip": 1.0, "accumulate": 2},
    {"amp": "fp16", "optimizer": "sgd", "momentum": 0.9}, {"mix": "mixup"}, {"mix": "cutmix"},
], ids=str)  # fmt: skip
def test_no_step_makes_the_gpu_wait(flags, graphed):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    if graphed and flags.get("accumulate"):
        pytest.skip("gradients that are accumulated have no graph")
    sample, device = load_data("sample"), torch.device("cuda")
    recipe = {"epochs": 1, "batch_size": 128, "lr": 0.001, "optimizer": "adam", "input_size": 28,
              "val_fraction": 0.0, "augment": tuple(AUGMENTATIONS)}  # fmt: skip
    config = Config(**(recipe | flags))
    spec = make_spec(config, 1, sample.classes)
    batches = make_loaders(config, spec, split(config, sample), device, World()).train
    state = TrainState.create(config, spec, device)
    net, optimizer = state.net, state.optimizer
    if graphed:
        net = GraphedNetwork(net, (config.batch_size, 1, 28, 28), config.amp)
    options = {"clip": config.clip or math.inf, "accumulation_steps": config.accumulate,
               "scaler": state.scaler, "ema": state.ema}  # fmt: skip
    if config.amp == "fp16":
        options["autocast"] = torch.autocast("cuda", torch.float16)
    train_epoch(net, batches, optimizer, **options)  # warms up the allocator and cuDNN

    class Guarded:
        """From the first batch to the last, anything that synchronises raises."""

        def __iter__(self):
            it = iter(batches)
            yield next(it)
            torch.cuda.set_sync_debug_mode("error")
            yield from it
            torch.cuda.set_sync_debug_mode("default")

    try:
        train_epoch(net, Guarded(), optimizer, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
