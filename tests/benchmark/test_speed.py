"""The comparison of speeds: ratios round by round, and what the table shows."""

from torchcnn.benchmark import speed
from torchcnn.benchmark.__main__ import Config

TASK = Config(data="sample", device="cpu", images=60, batch_size=30).task("lenet")


def test_every_way_is_measured_in_every_round_but_the_first():
    """Each of the three trains in three rounds, of which the first warms up."""
    measured = speed.measure(TASK, "tutorial", rounds=2)
    speeds = measured.images_per_second
    assert list(speeds) == ["tutorial", "torchcnn", "bound"]
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in speeds.values())
    assert measured.chose == {}


def test_the_table_has_ratios_of_each_round_and_what_was_chosen():
    speeds = {"keras": [10.0, 20.0], "torchcnn": [30.0, 30.0], "torchcnn, auto": [60.0, 120.0]}
    measured = speed.Measured(speeds, {"torchcnn, auto": "bf16"})
    head, row = speed.report({"lenet": (TASK, measured)}, "keras").splitlines()
    assert head.split("  ")[-1] == "torchcnn, auto chose" and row.endswith("  bf16")
    assert row.split()[:6] == ["lenet", "30", "28", "15", "30", "90"]  # medians
    assert "2.25 (1.50 to 3.00)  " in row and " 6.00 (6.00 to 6.00)  " in row
