"""The comparison of speeds: which rounds count, which ratios, what the table shows."""

from contextlib import contextmanager

import pytest
import torch

from torchcnn.benchmark import speed
from torchcnn.benchmark.ways import Trained, Way


def on(device):
    """A task on a device, of which nothing else is looked at."""
    fields = dict.fromkeys(speed.Task.__dataclass_fields__)
    return speed.Task(**fields | {"device": torch.device(device)})


class FakeWays:
    """Ways whose epochs of 60 images take as many seconds as it says here, by way and call."""

    def __init__(self):
        self.calls, self.closed, self.kept = [], [], []
        self.seconds = {
            "keras": [99.0, 6.0, 3.0],
            "torchcnn": [99.0, 2.0, 2.0],
            "torchcnn, auto": [99.0, 1.0, 0.5],
        }

    def make(self, way, task):
        seconds = iter(self.seconds[way])

        def train_epoch():
            assert not self.closed
            self.calls.append(way)
            return Trained(60, next(seconds))

        return Way(train_epoch, "bf16" if "auto" in way else "")

    @contextmanager
    def settings(self, device, **settings):
        self.kept.append(settings)
        yield

    @contextmanager
    def open(self, way, task):
        yield self.make(way, task)
        self.closed.append(way)


@pytest.fixture
def fake(monkeypatch):
    ways = FakeWays()
    monkeypatch.setattr(speed, "make_way", ways.make)
    monkeypatch.setattr(speed, "open_way", ways.open)
    monkeypatch.setattr(speed, "device_settings", ways.settings)
    monkeypatch.setattr(speed, "keep_freed_memory", lambda: None)
    return ways


def test_every_way_trains_in_every_round_and_the_first_does_not_count(fake):
    measured = speed.measure(on("cpu"), "keras", rounds=2)
    assert [sorted(fake.calls[i : i + 3]) for i in (0, 3, 6)] == [sorted(fake.seconds)] * 3
    assert fake.closed == ["keras"]  # the others are in this process
    expected = {"keras": [10, 20], "torchcnn": [30, 30], "torchcnn, auto": [60, 120]}
    assert measured.speeds == expected
    assert measured.memory == {} and measured.roofline is None
    assert measured.chose == {"torchcnn, auto": "bf16"}
    assert speed.as_json(measured)["images_per_second"] == expected


def test_the_order_within_a_round_changes(fake):
    fake.seconds = {way: [1.0] * 21 for way in fake.seconds}
    speed.measure(on("cpu"), "keras", rounds=20)
    orders = {tuple(fake.calls[i : i + 3]) for i in range(0, 63, 3)}
    assert len(orders) > 3


def test_memory_is_kept_only_where_no_way_of_another_shares_the_process(fake, monkeypatch):
    monkeypatch.setattr(speed, "peak_in_new_process", lambda work, device: 12.5)
    fake.seconds = dict.fromkeys(("tutorial", "torchcnn", "bound", "keras"), [1.0] * 2)
    fake.seconds["torchcnn, auto"] = [1.0] * 2
    memory = speed.measure(on("cpu"), "tutorial", rounds=1).memory
    assert memory == {"tutorial": 12.5, "torchcnn": 12.5} and not fake.kept
    speed.measure(on("cpu"), "keras", rounds=1)
    assert fake.kept == [{"deterministic": False}]
    fake.closed.clear()
    speed.measure(on("cuda"), "tutorial", rounds=1)  # TF32 and cuDNN's choice are those of `train`
    assert fake.kept == [{"deterministic": False}] * 2


def test_the_table_has_ratios_of_each_round_and_what_was_chosen(fake):
    task = speed.Task(
        arch="lenet",
        data="sample",
        root="data",
        device=None,
        images=60,
        batch_size=30,
        input_size=28,
        small_input=False,
    )
    measured = speed.measure(task, "keras", rounds=2)
    head, row = speed.report({"lenet": (task, measured)}, "keras").splitlines()
    assert head.split("  ")[-1] == "torchcnn, auto chose" and row.endswith("  bf16")
    assert "MiB" not in head and "roofline" not in head
    assert row.split()[:6] == ["lenet", "30", "28", "15", "30", "90"]  # medians
    assert "2.25 (1.50 to 3.00)  " in row and " 6.00 (6.00 to 6.00)  " in row
