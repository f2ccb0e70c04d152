"""Learning rates, by arithmetic on paper."""

import pytest

from torchcnn.training.schedule import SCHEDULES, learning_rate


@pytest.mark.parametrize(
    ("kind", "rates"),  # at steps 0, 25, 30, 50, 65, 75, 99 of 100, for a rate of 1
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1]),
        ("step", [1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        # (1 + cos(pi t)) / 2: cos(pi / 4) = 0.70711, cos(0.3 pi) = 0.58779, ...
        ("cosine", [1, 0.853553, 0.793893, 0.5, 0.273005, 0.146447, 0.000247]),
        # 1/25 at first, 1 at 30 %, 1/2 half-way down; cos(pi 2/7) = 0.62349
        ("one-cycle", [0.04, 0.84, 1, 0.811745, 0.5, 0.283058, 0.000503]),
    ],
)
def test_schedules(kind, rates):
    found = [learning_rate(kind, 1.0, step, 100) for step in (0, 25, 30, 50, 65, 75, 99)]
    assert found == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_warm_up_rises_in_equal_parts_to_the_schedule(kind):
    plain = [learning_rate(kind, 0.3, step, 50) for step in range(50)]
    warm = [learning_rate(kind, 0.3, step, 50, warmup=10) for step in range(50)]
    assert warm[:10] == pytest.approx([plain[i] * (i + 1) / 10 for i in range(10)])
    assert warm[10:] == plain[10:]
