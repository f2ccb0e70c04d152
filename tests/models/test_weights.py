"""Weights with another head, and frozen parts."""

import copy

import pytest
import torch
from torch import nn

from torchcnn import BatchNorm, create_model
from torchcnn.layers import KerasBatchNorm2d
from torchcnn.models.weights import freeze, set_attributes, start_from, train_mode
from torchcnn.training.ema import MovingAverage
from torchcnn.training.loop import train_epoch


@pytest.mark.parametrize("name", ["lenet", "nin", "resnet20", "densenet"])
def test_a_head_for_other_classes_is_new(name):
    options = {"in_channels": 1, "input_size": 67 if name == "nin" else 32}
    before, net = (create_model(name, num_classes=n, **options) for n in (10, 3))
    fresh = copy.deepcopy(net.state_dict())
    new = start_from(net, before.state_dict(), (10, 3))
    for key, tensor in net.state_dict().items():
        source = fresh if key in new else before.state_dict()
        assert torch.equal(tensor, source[key]), key
    assert new and all(name.startswith(("head.", "stage4.")) for name in new)  # NiN's is a block


def test_weights_that_do_not_fit_change_nothing():
    net = create_model("lenet")
    fresh = copy.deepcopy(net.state_dict())
    for other, classes, message in [
        (create_model("lenet", in_channels=3), (10, 10), r"stage1.0.weight of the weights is "),
        (create_model("lenet", input_size=32), (10, 10), r"head.1.weight of the weights is "),
        (create_model("lenet", num_classes=3), (4, 10), "head.7.weight of the weights is"),
        (create_model("mlp"), (10, 10), "the weights are not those of this network: they lack "),
        (create_model("lenet"), (5, 10), "no layer that depends on their number"),
    ]:
        with pytest.raises(ValueError, match=message):
            start_from(net, other.state_dict(), classes)
    assert all(torch.equal(t, fresh[k]) for k, t in net.state_dict().items())


def test_frozen_parts_have_no_gradients_and_keep_their_statistics():
    net = create_model("lenet")
    freeze(net, ["stage1", "head.1"])
    free = {name for name, p in net.named_parameters() if p.requires_grad}
    assert free == {name for name, _ in net.named_parameters()
                    if not name.startswith(("stage1.", "head.1."))}  # fmt: skip
    train_mode(net)
    assert not net.stage1[1].training and net.stage2[1].training


class OwnNorm(nn.Module):
    """Its statistics are in another module, and its parameters in a third."""

    def __init__(self):
        super().__init__()
        self.statistics, self.scale = nn.Module(), nn.Conv2d(3, 3, 1)
        self.statistics.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x):
        if self.training:
            self.statistics.mean.lerp_(x.detach().mean((0, 2, 3))[:, None, None], 0.1)
        return self.scale(x - self.statistics.mean)


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(3, affine=False),
        lambda: nn.InstanceNorm2d(3, track_running_stats=True),
        lambda: BatchNorm(3),
        lambda: KerasBatchNorm2d(3),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)),
        OwnNorm,
    ],
)
@pytest.mark.parametrize("how", ["a part", "the norm", "by its parameters", "another name"])
def test_statistics_of_what_is_frozen_stay_to_the_bit(how, norm):
    """And those of a norm like it, which is not frozen, do not. Dropout stays active."""
    part = nn.Sequential(nn.Conv2d(3, 3, 3), norm(), nn.Dropout())
    net = nn.ModuleDict({"part": part, "free": norm(), "head": nn.Linear(3, 2)})
    net["again"] = part
    net.forward = lambda x: net.head(net.free(net.part(x)).mean((2, 3)))
    if how == "by its parameters":
        part.requires_grad_(False)
    else:
        freeze(net, [{"a part": "part", "the norm": "part.1", "another name": "again"}[how]])
    ema = MovingAverage(net, 0.5)
    before = copy.deepcopy(net.state_dict())
    batches = [(torch.rand(4, 3, 12, 12), torch.arange(4) % 2)] * 3
    train_epoch(net, batches, torch.optim.SGD(net.parameters(), lr=0.1), ema=ema)
    for state in (net.state_dict(), ema.module.state_dict()):
        frozen = "part.1" if how == "the norm" else "part"
        assert all(torch.equal(state[k], v) for k, v in before.items() if k.startswith(frozen))
        kept = [torch.equal(state[k], v) for k, v in before.items() if k.startswith("free")]
        assert kept and not all(kept)
    assert part[2].training


def test_a_norm_without_parameters_is_not_frozen():
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Linear(3, 1))
    train_mode(net)
    assert net[0].training


def test_what_a_module_says_itself_is_left_alone():
    """A buffer `mean` and a number `std`, as own modules often have them."""
    net = nn.Linear(1, 1)
    net.register_buffer("mean", torch.tensor([0.5]))
    net.std = 0.25
    for classes in (["a", "b"], ["c"]):
        set_attributes(net, classes, 28, ([0.0], [1.0]))
        assert (net.mean.tolist(), net.std) == ([0.5], 0.25)
        assert (net.classes, net.input_size) == (classes, 28)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["stem"], "no part 'stem' to freeze; there are stage1, stage2, head"),
        ([""], "no part '' to freeze"),
        (["stage1", "stage2", "head"], "nothing is left to train"),
    ],
)
def test_parts_that_cannot_be_frozen(names, message):
    with pytest.raises(ValueError, match=message):
        freeze(create_model("lenet"), names)
