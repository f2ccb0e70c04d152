"""Each flag of training reaches the steps, and a run goes on with all that they change."""

import copy
import csv
import functools

import pytest
import torch
import torch.nn.functional as F
from comparing import check_same, contents, killed, same
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchcnn import train
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.training.ema import MovingAverage
from torchcnn.training.loop import StepOptions, train_epoch, train_steps
from torchcnn.training.optim import OPTIMIZERS, make_optimizer

FLAGS = ["--arch", "mlp", "--data", "sample", "--device", "cpu", "--batch-size", "100"]


def linear():
    """A layer, a batch for it, and the norm of all gradients."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(3, (8,))
    grads = torch.autograd.grad(F.cross_entropy(net(x), y), net.parameters())
    return net, (x, y), torch.cat([g.flatten() for g in grads]).norm()


@pytest.mark.parametrize(
    ("name", "options"),
    [("sgd", {"momentum": 0.9, "nesterov": True}), ("sgd", {}), ("adam", {}), ("adamw", {})],
)
def test_the_optimizers_are_torchs_and_fused(name, options):
    options = {"lr": 0.1, "weight_decay": 0.5} | options
    ours, x = nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
    theirs = copy.deepcopy(ours)
    optimizer = make_optimizer(ours, name, **options)
    assert optimizer.defaults["fused"]
    for net, each in (
        (ours, optimizer),
        (theirs, OPTIMIZERS[name](theirs.parameters(), **options)),
    ):
        for _ in range(3):
            each.zero_grad()
            net(x).square().sum().backward()
            each.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_mixed_images_are_learned_by_their_shares():
    """A target of two classes: the loss is that of each, by its share; a hit is its larger one."""
    logits, target = torch.tensor([[2, 1, 0], [0.7, 0.3, 0]], dtype=torch.float64).split(1)
    log_p = logits.log_softmax(1)[0]
    net = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    nn.init.eye_(net.weight)
    (step,) = train_steps(net, [(logits, target)], torch.optim.SGD(net.parameters(), lr=0.0))
    torch.testing.assert_close(step.loss, -(0.7 * log_p[0] + 0.3 * log_p[1]))
    assert step.correct == 1


@pytest.mark.parametrize(("clip", "shrinks"), [(0.01, True), (1e3, False)])
def test_clipping_shortens_all_gradients_together(clip, shrinks):
    """With rate 1 the step is as long as the gradient; the norm before it is logged."""
    net, batch, norm = linear()
    before = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    sgd = torch.optim.SGD(net.parameters(), lr=1.0)
    (step,) = train_steps(net, [batch], sgd, None, StepOptions(clip=clip))
    moved = torch.cat([p.detach().flatten() for p in net.parameters()]) - before
    expected = torch.tensor(clip) if shrinks else norm
    torch.testing.assert_close(moved.norm(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(step.logged, {"gradient_norm": norm})
    (step,) = train_steps(net, [batch], sgd)
    assert step.logged == {}


@pytest.mark.usefixtures("tenth_of_the_sample")
def test_the_norm_of_clipped_gradients_is_logged(tmp_path):
    """As the epoch's mean, in history.csv, in the checkpoint and in TensorBoard."""
    train.main([*FLAGS, "--epochs", "2", "--clip", "1", "--out", str(tmp_path / "r")])
    history = load_checkpoint(tmp_path / "r" / "last.pt").history
    norms = [record.logged["gradient_norm"] for record in history]
    assert len(norms) == 2 and min(norms) > 0
    with open(tmp_path / "r" / "history.csv", newline="") as file:
        assert [float(row["gradient_norm"]) for row in csv.DictReader(file)] == norms
    points = contents(tmp_path / "r")["points"]["train/gradient norm"]
    assert [value for _, value in points] == pytest.approx(norms)


@pytest.mark.parametrize("parts", [2, 3, 10])
def test_parts_of_a_batch_add_up_to_its_step(parts):
    """10 images in 3 parts: 4, 4 and 2, weighed by their sizes."""
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.randint(3, (10,))
    results = []
    for n in (1, parts):
        torch.manual_seed(0)
        net = nn.Linear(4, 3, dtype=torch.float64)
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        result = train_epoch(net, [(x, y)] * 3, optimizer, accumulation_steps=n)
        results.append((net.weight.detach(), result.step_losses, result.accuracy, result.images))
    torch.testing.assert_close(*results)


def test_a_step_whose_float16_gradients_overflow_is_left_out_and_the_scale_halved():
    """Fused SGD alone would keep momentum that was never written, as no step had been taken."""
    net, batch, _ = linear()
    before = net.weight.detach().clone()
    optimizer = make_optimizer(net, "sgd", lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    options = StepOptions(autocast=torch.autocast("cpu", torch.float16), scaler=scaler)
    steps = train_steps(net, [batch] * 9, optimizer, options=options)
    next(steps)
    assert scaler.get_scale() == 2.0**19 and torch.equal(net.weight, before)
    assert [int(s["momentum_buffer"].count_nonzero()) for s in optimizer.state.values()] == [0, 0]
    list(steps)
    assert scaler.get_scale() < 2.0**19 and not torch.equal(net.weight, before)


@pytest.mark.usefixtures("tenth_of_the_sample")
@pytest.mark.parametrize("scale", [2.0**16, 2.0**60])
def test_a_float16_run_goes_on_with_its_scale(scale, tmp_path, monkeypatch):
    """Also with one at which all five steps of the first epoch overflow."""
    scaler = functools.partial(torch.amp.GradScaler, init_scale=scale)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    half = [*FLAGS, "--amp", "fp16", "--optimizer", "sgd", "--lr", "0.1", "--momentum", "0.9"]
    train.main([*half, "--epochs", "2", "--out", str(tmp_path / "whole")])
    train.main([*half, "--epochs", "1", "--out", str(tmp_path / "r")])
    stored = load_checkpoint(tmp_path / "r" / "last.pt").state.scaler
    # Without an overflow it counts the steps, and the scale stays.
    expected = (scale, 5) if scale == 2.0**16 else (2.0**55, 0)
    assert (stored["scale"], stored["_growth_tracker"]) == expected
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    check_same(tmp_path / "whole", tmp_path / "r")


@pytest.mark.parametrize("decay", [0.1, 0.9])
def test_the_moving_average_is_torchs(decay):
    """Weights and statistics; and the last count of batches."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)).double()
    ours = MovingAverage(net, decay)

    def warmed_up(averages, weights, n):  # what TensorFlow's documentation says of num_updates
        weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        for average, new in zip(averages, weights, strict=True):
            average.copy_(average.lerp(new, weight) if average.is_floating_point() else new)

    theirs = AveragedModel(net, multi_avg_fn=warmed_up, use_buffers=True)
    for _ in range(4):
        net(torch.randn(5, 3, dtype=torch.float64))
        with torch.no_grad():
            net[0].weight.add_(1)
        ours.update(net)
        theirs.update_parameters(net)
    expected = theirs.module.state_dict()
    torch.testing.assert_close(dict(ours.module.state_dict()), expected, rtol=1e-14, atol=0)
    assert ours.count == 4 and not any(p.requires_grad for p in ours.module.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_on_cuda_a_deterministic_run_resumes_to_the_same_bits(amp, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    flags = ["--arch", "tf_baseline", "--device", "cuda", "--deterministic", "--amp", amp,
             "--ema", "0.9", "--augment", "crop,flip", "--channels-last", "--data", "sample",
             "--batch-size", "500", "--checkpoint-every", "4", "--epochs", "2"]  # fmt: skip
    for name in ("a", "b"):
        train.main([*flags, "--out", str(tmp_path / name)])
    with killed(lambda _, checkpoint: checkpoint.progress and checkpoint.progress.cuda_rng):
        train.main([*flags, "--out", str(tmp_path / "c")])
    train.main(["--resume", str(tmp_path / "c")])
    a, b, c = (load_checkpoint(tmp_path / name / "last.pt").state.weights for name in "abc")
    assert same(a, b) and same(a, c)
