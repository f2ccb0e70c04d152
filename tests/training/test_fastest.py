"""What `--amp auto` and `--channels-last auto` choose, and that a run keeps it."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from torchcnn import create_model
from torchcnn.train import main, train
from torchcnn.training import fastest as module
from torchcnn.training.config import Config
from torchcnn.training.distributed import World
from torchcnn.training.fastest import describe, fastest, has_bf16, measure
from torchcnn.training.recipes import fast

CPU = torch.device("cpu")
SMALL = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--batch-size", "450"]


def batch(n=4, device="cpu"):
    return torch.zeros(n, 1, 28, 28, device=device), torch.zeros(n, dtype=torch.int64)


def told(seconds):
    """A `measure` that says what it is told, for the ways that it is asked for."""
    return lambda net, batch, ways: {way: seconds[way] for way in ways}


SECONDS = {("off", False): 4.0, ("off", True): 2.0, ("bf16", False): 3.0, ("bf16", True): 1.0}


@pytest.mark.parametrize(
    "has, amp, channels_last, expected",
    [
        (True, "auto", "auto", ("bf16", True)),
        (False, "auto", "auto", ("off", True)),  # bf16 is not even tried
        (True, "auto", False, ("bf16", False)),
        (True, "off", "auto", ("off", True)),
        (False, "auto", False, ("off", False)),
        (True, "fp16", True, ("fp16", True)),  # nothing is asked
    ],
)
def test_the_fastest_of_what_is_auto_is_chosen(monkeypatch, has, amp, channels_last, expected):
    monkeypatch.setattr(module, "has_bf16", lambda device: has)
    monkeypatch.setattr(module, "measure", told(SECONDS))
    chosen = fastest(create_model("lenet"), batch(), amp, channels_last)
    assert (chosen.amp, chosen.channels_last) == expected


def test_the_reason_says_by_how_much(monkeypatch):
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    monkeypatch.setattr(module, "measure", told(SECONDS))
    assert fastest(create_model("lenet"), batch()).note == "4.00 times the speed of fp32, measured"
    monkeypatch.setattr(module, "measure", told(SECONDS | {("off", False): 0.5}))
    assert fastest(create_model("lenet"), batch()).note == "the fastest of 4, measured"
    assert describe("bf16", True) == "bf16, channels-last"


def test_each_way_is_measured_and_the_network_left_as_it_is():
    net = create_model("lenet")
    before = {name: t.clone() for name, t in net.state_dict().items()}
    ways = [("off", False), ("off", True), ("bf16", True)]
    seconds = measure(net, batch(8), ways)
    assert list(seconds) == ways and all(0 < s < float("inf") for s in seconds.values())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and net.training


def test_a_whole_part_of_a_batch_is_measured(monkeypatch):
    """Of 100 images in 60 parts, as torch.chunk cuts them: 2, and not 1."""
    seen = []
    monkeypatch.setattr(module, "measure", lambda net, batch, ways: seen.append(batch[0].shape)
                        or dict.fromkeys(ways, 1.0))  # fmt: skip
    config = Config(**fast("lenet") | {"batch_size": 100, "accumulate": 60})
    spec = {"arch": "lenet", "in_channels": 1, "num_classes": 10, "input_size": 28,
            "norm": "torch", "small_input": False}  # fmt: skip
    module.decide(config, spec, CPU, World())
    assert seen == [(2, 1, 28, 28)]


def test_a_slow_network_is_measured_on_fewer_images():
    sizes = []

    class Slow(nn.Flatten):
        def forward(self, x):
            sizes.append(len(x))
            torch.zeros(300, 300) @ torch.zeros(300, 300)
            for _ in range(len(x)):
                torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)
            return super().forward(x)

    measure(nn.Sequential(Slow(), nn.Linear(784, 10)), batch(100_000), [("off", False)])
    assert sizes[0] == 2 and 2 <= sizes[-1] < 100_000


def test_whether_this_processor_has_bf16():
    # Intel's and AMD's say so in /proc/cpuinfo; others are not asked here.
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("not Linux")
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    if "sse2" not in flags:
        pytest.skip("not an x86 processor of Linux")
    # torch.cpu asks by other means: the instruction cpuid.
    assert has_bf16(CPU) == ("avx512_bf16" in flags or "amx_tile" in flags)


def test_a_run_keeps_what_was_decided(tmp_path, monkeypatch, capsys, tenth_of_the_sample):
    out = tmp_path / "run"
    monkeypatch.setattr(module, "measure", told(SECONDS))
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    auto = ["--amp", "auto", "--channels-last", "auto"]
    main([*SMALL, "--batch-size", "100", *auto, "--out", str(out)])
    config = json.loads((out / "config.json").read_text())
    assert (config["amp"], config["channels_last"]) == ("bf16", True)
    printed = capsys.readouterr().out
    assert "amp              bf16 (4.00 times the speed of fp32, measured)" in printed
    # When it is resumed nothing is measured, though now something else would be faster.
    monkeypatch.setattr(module, "measure", None)
    for flags in ([], auto):
        epochs = str(3 if flags else 2)
        main(["--resume", str(out), "--device", "cpu", "--epochs", epochs, *flags])
        config = json.loads((out / "config.json").read_text())
        assert (config["amp"], config["channels_last"]) == ("bf16", True)


def test_fast_decides_and_source_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", told(SECONDS))
    monkeypatch.setattr(module, "has_bf16", lambda device: False)
    for recipe, expected in (("fast", True), ("source", False)):
        out = tmp_path / recipe
        flags = {"data": "sample", "epochs": 1, "batch_size": 450, "device": "cpu"}
        train(arch="lenet", recipe=recipe, out=str(out), **flags)
        assert json.loads((out / "config.json").read_text())["channels_last"] is expected


def test_the_weights_and_the_order_do_not_depend_on_the_decision(tmp_path):
    """Deciding draws random numbers; a run in which the same is given has the same bits."""
    flags = {"arch": "lenet", "data": "sample", "epochs": 1, "batch_size": 450, "device": "cpu"}
    decided = train(**flags, amp="auto", out=str(tmp_path / "decided"))
    amp = json.loads((tmp_path / "decided" / "config.json").read_text())["amp"]
    given = train(**flags, amp=amp, out=str(tmp_path / "given"))
    assert torch.equal(decided.history[0].step_losses, given.history[0].step_losses)


def test_evaluation_is_in_the_same_precision(tmp_path, monkeypatch, capsys):
    from torchcnn.evaluate import main as evaluate

    seen = set()
    forward = nn.Conv2d.forward

    def spy(self, x):
        y = forward(self, x)
        seen.add((self.training, y.dtype))
        return y

    monkeypatch.setattr(nn.Conv2d, "forward", spy)
    out = tmp_path / "run"
    main(["--amp", "bf16", "--out", str(out), *SMALL])
    evaluated = {dtype for training, dtype in seen if not training}
    assert torch.bfloat16 in evaluated
    result = json.loads((out / "result.json").read_text())
    seen.clear()
    capsys.readouterr()
    evaluate(["--checkpoint", str(out), "--device", "cpu"])
    assert {dtype for _, dtype in seen} == {torch.bfloat16}
    assert f"test acc {result['test_acc']:.4f}" in capsys.readouterr().out


def test_what_is_not_a_format_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--channels-last", "maybe"])
    assert stop.value.code == 2
    assert "got maybe, allowed are on, off, auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bf16", "amx", "amp", "chosen"),
    [
        (False, False, "auto", ("off", False)),
        (True, False, "auto", ("bf16", False)),
        (True, True, "auto", ("bf16", True)),
        (True, True, "off", ("off", False)),
        (False, False, "bf16", ("bf16", False)),
        (True, True, "bf16", ("bf16", True)),
        (False, False, "fp16", ("fp16", False)),
    ],
)
def test_what_is_too_slow_is_not_measured(bf16, amx, amp, chosen, monkeypatch):
    """Then the processor decides: bf16 where it has units for it, channels-last with AMX."""
    monkeypatch.setattr(module, "measure", None)
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "has_bf16", lambda device: bf16)
    monkeypatch.setattr(module, "has_amx", lambda: amx)
    note = "by the processor; a step takes too long to measure"
    assert fastest(create_model("lenet"), batch(), amp) == (*chosen, note)


@pytest.mark.parametrize(
    ("amx", "a_pass", "an_image", "decides"),
    [
        (False, 0.0, 0.01, False),
        (True, 0.0, 0.01, True),  # two steps of 64 images in four ways: 15 s
        (True, 0.0, 0.0005, False),  # 0.8 s
        (True, 0.001, 0.0001, False),  # 0.2 s, though 64 passes of one image would make it 1.7 s
    ],
)
def test_amx_decides_where_a_whole_batch_takes_too_long(
    amx, a_pass, an_image, decides, monkeypatch
):
    seen = []

    def repeat(forward, number, repeat):
        forward()
        return [1.0, a_pass + an_image * len(seen[-1])]

    net = create_model("lenet")
    net.register_forward_hook(lambda net, args, y: seen.append(args[0]))
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    monkeypatch.setattr(module, "has_amx", lambda: amx)
    monkeypatch.setattr(module.timeit, "repeat", repeat)
    monkeypatch.setattr(module, "measure", told(SECONDS))
    chosen = fastest(net, batch(64))
    assert chosen[:2] == ("bf16", True)
    assert chosen.note.startswith("by the processor") == decides
    assert not fastest(net, batch(64), "off").note.startswith("by the processor")


def test_the_weights_of_what_is_measured_are_not_drawn(monkeypatch):
    spec = {"arch": "lenet", "in_channels": 1, "num_classes": 10, "norm": "torch",
            "small_input": False}  # fmt: skip
    net = module.build_empty(spec | {"input_size": 28})
    assert all(not t.any() for t in net.state_dict().values())
    assert net(batch()[0]).shape == (4, 10)
    assert module.build_empty(spec | {"input_size": 20})(torch.zeros(2, 1, 20, 20)).shape == (2, 10)
