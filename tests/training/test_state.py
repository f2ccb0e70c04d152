"""Each flag of training does what it says, by arithmetic on paper."""

import csv
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from comparing import contents
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchcnn import train
from torchcnn.run import log
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.training.config import Config
from torchcnn.training.ema import MovingAverage
from torchcnn.training.loop import StepOptions, train_epoch, train_steps
from torchcnn.training.optim import make_optimizer
from torchcnn.training.state import TrainState


def config(**flags):
    recipe = {"epochs": 1, "batch_size": 10, "lr": 0.1, "optimizer": "sgd", "input_size": 28}
    return Config(**(recipe | flags))


def sgd_or(net, optimizer="sgd", **flags):
    return make_optimizer(net, optimizer, lr=0.1, **flags)


class Weight(nn.Module):
    """A single weight w, float64, whose logits are (w x, 0)."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return torch.stack([self.w * x, torch.zeros_like(x)], 1)


def gradient(w):
    """Of the loss of x = 1, class 0: -log(1 / (1 + exp(-w)))."""
    return -1 / (1 + math.exp(w))


def after(steps, **flags):
    """The weight after some steps on x = 1 of class 0, from w = 2."""
    net = Weight(2.0)
    batch = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    list(train_steps(net, [batch] * steps, sgd_or(net, **flags)))
    return net.w.item()


def test_weight_decay_pulls_on_the_gradient_or_with_adamw_on_the_weight():
    expected = 2 - 0.1 * (gradient(2) + 0.5 * 2)
    assert after(1, weight_decay=0.5) == pytest.approx(expected, abs=1e-12)
    # Adam's first step is the rate times the gradient's sign, whatever decay adds to it.
    sign = math.copysign(1, gradient(2) + 0.5 * 2)
    assert after(1, optimizer="adam", weight_decay=0.5) == pytest.approx(2 - 0.1 * sign, abs=1e-6)
    expected = 2 * (1 - 0.1 * 0.5) + 0.1
    assert after(1, optimizer="adamw", weight_decay=0.5) == pytest.approx(expected, abs=1e-6)


def test_momentum_adds_up_and_nesterov_looks_ahead():
    g1 = gradient(2)
    w1 = 2 - 0.1 * g1
    v2 = 0.9 * g1 + gradient(w1)
    assert after(2, momentum=0.9) == pytest.approx(w1 - 0.1 * v2, abs=1e-12)
    w1 = 2 - 0.1 * (g1 + 0.9 * g1)
    v2 = 0.9 * g1 + gradient(w1)
    expected = w1 - 0.1 * (gradient(w1) + 0.9 * v2)
    assert after(2, momentum=0.9, nesterov=True) == pytest.approx(expected, abs=1e-12)


def test_label_smoothing_gives_all_classes_a_share_of_the_target():
    logits = torch.randn(6, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    log_p = logits.log_softmax(1)
    expected = -(0.7 * log_p[range(6), labels] + 0.3 * log_p.mean(1)).mean()
    net = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    (step,) = train_steps(
        net, [(logits, labels)], optimizer, options=StepOptions(label_smoothing=0.3)
    )
    torch.testing.assert_close(step.loss, expected)


@pytest.mark.parametrize(("clip", "shrinks"), [(0.01, True), (1e3, False)])
def test_clipping_shortens_all_gradients_together(clip, shrinks):
    """With rate 1 the step is as long as the gradient."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(3, (8,))
    before = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    grads = torch.autograd.grad(F.cross_entropy(net(x), y), net.parameters())
    norm = torch.cat([g.flatten() for g in grads]).norm()
    list(
        train_steps(
            net, [(x, y)], torch.optim.SGD(net.parameters(), lr=1.0), None, StepOptions(clip=clip)
        )
    )
    moved = torch.cat([p.detach().flatten() for p in net.parameters()]) - before
    torch.testing.assert_close(moved.norm(), torch.tensor(clip) if shrinks else norm,
                               rtol=1e-4, atol=0)  # fmt: skip


def test_the_norm_of_clipped_gradients_is_logged(tmp_path):
    """In the step, in the epoch's mean, in history.csv, in the checkpoint and in TensorBoard."""
    net, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(3, (8,))
    grads = torch.autograd.grad(F.cross_entropy(net(x), y), net.parameters())
    norm = torch.cat([g.flatten() for g in grads]).norm()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    result = train_epoch(net, [(x, y)] * 3, optimizer, clip=0.1)
    assert result.logged == pytest.approx({"gradient_norm": float(norm)})
    assert train_epoch(net, [(x, y)] * 3, optimizer).logged == {}
    train.main([*FLAGS, "--clip", "1", "--out", str(tmp_path / "r")])
    history = load_checkpoint(tmp_path / "r" / "last.pt")["history"]
    norms = [record["gradient_norm"] for record in history]
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
    net, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(3, (8,))
    before = net.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    options = StepOptions(autocast=torch.autocast("cpu", torch.float16), scaler=scaler)
    steps = train_steps(net, [(x, y)] * 9, optimizer, options=options)
    next(steps)
    assert scaler.get_scale() == 2.0**19 and torch.equal(net.weight, before)
    list(steps)
    assert scaler.get_scale() < 2.0**19 and not torch.equal(net.weight, before)


def test_mixed_images_are_learned_by_their_shares():
    """A target of two classes: the loss is that of each, by its share; a hit is its larger one."""
    net = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3))
    logits, target = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.7, 0.3, 0.0]])
    log_p = logits.log_softmax(1)[0]
    (step,) = train_steps(net, [(logits, target)], torch.optim.SGD(net.parameters(), lr=0.0))
    torch.testing.assert_close(step.loss, -(0.7 * log_p[0] + 0.3 * log_p[1]))
    assert step.correct == 1


def test_the_optimizers_are_fused():
    model = {"arch": "lenet", "in_channels": 1, "num_classes": 10, "input_size": 28,
             "norm": "torch", "small_input": False}  # fmt: skip
    for name in ("sgd", "adam", "adamw"):
        state = TrainState.create(config(optimizer=name), model, torch.device("cpu"))
        assert state.optimizer.defaults["fused"] and not state.scaler.is_enabled()


def test_the_momentum_of_a_first_step_that_overflowed_is_zero():
    """Fused SGD alone would keep memory that was never written, as no step had been taken."""
    net, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(3, (8,))
    before = net.weight.detach().clone()
    optimizer = sgd_or(net, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    options = StepOptions(autocast=torch.autocast("cpu", torch.float16), scaler=scaler)
    next(train_steps(net, [(x, y)], optimizer, options=options))
    assert scaler.get_scale() == 2.0**19 and optimizer.defaults["fused"]
    assert [int(s["momentum_buffer"].count_nonzero()) for s in optimizer.state.values()] == [0, 0]
    assert torch.equal(net.weight, before)


def test_a_float16_run_that_has_only_overflowed_goes_on(tmp_path, monkeypatch):
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**60)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    folder = str(tmp_path / "r")
    half = ["--arch", "mlp", "--amp", "fp16"]
    sgd = ["--optimizer", "sgd", "--lr", "0.1", "--momentum", "0.9"]
    train.main([*FLAGS, *half, *sgd, "--epochs", "1", "--out", folder])
    assert load_checkpoint(tmp_path / "r" / "last.pt")["scaler"]["scale"] == 2.0**55  # 5 steps
    train.main(["--resume", folder, "--epochs", "2"])


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


def test_the_moving_average_forgets_the_first_weights_of_a_short_run():
    """A weight is 1 and then 0: of the 1 is left the product of (1 + n) / (10 + n), n < 100."""
    net = nn.Linear(1, 1, bias=False).double()
    average = MovingAverage(net, 0.999)
    for step in range(100):
        nn.init.constant_(net.weight, float(step == 0))
        average.update(net)
    left = math.factorial(10) * math.factorial(100) / math.factorial(109)
    assert average.module.weight.item() == pytest.approx(left, rel=1e-5) and left < 1e-10


FLAGS = ["--data", "sample", "--device", "cpu", "--batch-size", "1000", "--epochs", "2"]


def test_a_float16_run_goes_on_with_its_scale(tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train.main([*FLAGS, "--arch", "mlp", "--amp", "fp16", "--out", str(whole)])
    train.main([*FLAGS, "--arch", "mlp", "--amp", "fp16", "--epochs", "1", "--out", str(stopped)])
    train.main(["--resume", str(stopped), "--epochs", "2"])
    a, b = (load_checkpoint(run / "last.pt") for run in (whole, stopped))
    assert a["scaler"] == b["scaler"] and a["scaler"]["_growth_tracker"] == 10
    assert all(torch.equal(w, b["weights"][k]) for k, w in a["weights"].items())


def test_deterministic_asks_torch_for_it(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, **_: asked.append(mode))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: asked[-1:] == [True])
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    train.main([*FLAGS, "--epochs", "1", "--deterministic", "--out", str(tmp_path / "a")])
    train.main([*FLAGS, "--epochs", "1", "--out", str(tmp_path / "b")])
    assert asked == [True, False]  # the second: that it is set back


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_on_cuda_a_deterministic_run_resumes_to_the_same_bits(amp, tmp_path, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    flags = ["--arch", "tf_baseline", "--device", "cuda", "--deterministic", "--amp", amp,
             "--ema", "0.9", "--augment", "crop,flip", "--channels-last", *FLAGS[:2],
             "--batch-size", "500", "--checkpoint-every", "4", "--epochs", "2"]  # fmt: skip
    for name in ("a", "b"):
        train.main([*flags, "--out", str(tmp_path / name)])
    save = log.save_checkpoint

    def save_and_die(path, checkpoint):
        save(path, checkpoint)
        if checkpoint["partial"]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(log, "save_checkpoint", save_and_die)
        train.main([*flags, "--out", str(tmp_path / "c")])
    assert load_checkpoint(tmp_path / "c" / "last.pt")["partial"]["cuda_rng"]
    train.main(["--resume", str(tmp_path / "c")])
    a, b, c = (load_checkpoint(tmp_path / name / "last.pt")["weights"] for name in "abc")
    assert all(torch.equal(w, b[k]) and torch.equal(w, c[k]) for k, w in a.items())
