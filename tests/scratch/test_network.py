"""Whole networks on hand-written layers against the same networks on torch's."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from small_networks import HEAVY, WHOLE_REGISTRY, small
from torch import nn

from torchcnn import create_model, scratch
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.layers import SameAvgPool2d
from torchcnn.training.loop import predict_logits, train_epoch


@pytest.mark.parametrize("name", WHOLE_REGISTRY)
def test_every_network_is_the_same_by_hand(name):
    """Keys, logits, gradients and moving statistics, in train and eval mode."""
    # The last norm of deep networks sees one pixel an image at this size. The standard deviation
    # of 3 numbers may be nearly 0, and rounding blown up to 1e-5 in the gradients; not that of 8.
    net, x = small(name, batch=8 if name in HEAVY else 3)
    classes = torch.arange(len(x)) % 5
    twin = scratch.from_scratch(net)
    assert list(twin.state_dict()) == list(net.state_dict())
    for (key, a), (_, b) in zip(twin.named_parameters(), net.named_parameters(), strict=True):
        assert a is b, key
    before = copy.deepcopy(net.state_dict())
    for training in (True, False):
        found = []
        for one in (net, twin):
            one.train(training)
            net.load_state_dict(before)
            torch.manual_seed(1)  # of dropout
            y = one(x)
            grads = torch.autograd.grad(F.cross_entropy(y, classes), list(one.parameters()))
            found.append((y.detach(), grads, [b.clone() for b in net.buffers()]))
        (y, grads, buffers), (y_hand, grads_hand, buffers_hand) = found
        torch.testing.assert_close(y_hand, y, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grads_hand, grads, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(buffers_hand, buffers, rtol=1e-10, atol=1e-10)


def test_no_layer_of_torch_is_left():
    """What computes is hand-written: no layer of torch.nn but those that compute nothing."""
    nothing = (nn.Sequential, nn.ModuleList, nn.Identity, nn.Flatten, nn.Unflatten)
    for name in ("lenet", "densenet", "tf_baseline", "tf_resnet18", "tf_inception10", "resnet20"):
        twin = scratch.from_scratch(create_model(name))
        for layer in twin.modules():
            torchs = type(layer).__module__.startswith("torch.nn")
            assert not torchs or type(layer) in nothing, f"{name}: {layer}"
            same = type(layer).__name__.startswith(("Same", "Keras"))
            assert not same, f"{name}: {layer}"


def test_the_layers_that_no_network_has():
    net = nn.Sequential(
        nn.ZeroPad2d((1, 0, 2, 1)), nn.LeakyReLU(0.2), SameAvgPool2d(3, 2), nn.Tanh(),
        nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(),
    )  # fmt: skip
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(scratch.from_scratch(net)(x), net(x), rtol=1e-12, atol=1e-12)
    for norm, shape in ((nn.BatchNorm1d(3, momentum=None), (4, 3)),
                        (nn.BatchNorm1d(3, affine=False), (4, 3, 5)),
                        (nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 5, 5))):  # fmt: skip
        norm, x = norm.double(), torch.randn(shape, dtype=torch.float64)
        twin = scratch.from_scratch(copy.deepcopy(norm))
        for k in range(3):
            torch.testing.assert_close(twin(k + k * x), norm(k + k * x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(dict(twin.named_buffers()), dict(norm.named_buffers()))
        torch.testing.assert_close(twin.eval()(x), norm.eval()(x), rtol=1e-12, atol=1e-12)


def test_the_twin_is_a_module_of_its_own():
    """Parameters are shared for good; mode, hooks and layers are not; it copies and pickles."""
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu, nn.BatchNorm1d(2))
    net[0].register_forward_hook(lambda *_: None)
    twin = scratch.from_scratch(net)
    twin.eval()
    twin[2].register_forward_hook(lambda *_: None)
    assert net.training and not net[2]._forward_hooks and type(net[0]) is nn.Linear
    assert twin[1] is twin[3]
    net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()})
    net.to(torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64)
    net.eval()
    torch.testing.assert_close(twin(x), net(x), rtol=1e-12, atol=1e-12)
    other = pickle.loads(pickle.dumps(scratch.from_scratch(create_model("lenet"))))
    assert type(other.stage1[0]) is scratch.network.Conv2d
    assert copy.deepcopy(twin)[0].weight is not twin[0].weight
    again = scratch.from_scratch(twin)
    assert again is not twin and torch.equal(again(x), twin(x))


@pytest.mark.parametrize(
    ("layer", "message"),
    [(nn.Softplus(), "layer '1' is a Softplus, which is not written by hand; there are AvgPool2d"),
     (nn.MultiheadAttention(4, 2), "layer '1' is a MultiheadAttention"),  # which has children
     (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "layer '1' pads with 'reflect'")],
)  # fmt: skip
def test_a_layer_that_is_not_written_by_hand_is_named(layer, message):
    with pytest.raises(ValueError, match=message):
        scratch.from_scratch(nn.Sequential(nn.ReLU(), layer))


def test_it_compiles():
    net, x = small("tf_baseline")
    twin = scratch.from_scratch(net).eval()
    net.eval()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("lenet", 28), ("densenet", 32)])
def test_an_epoch_by_hand_ends_with_the_same_loss(name, size):
    """On the sample, in float64, from the same seed, with the tutorial's optimizer."""
    data = load_data("sample")
    losses = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        net = create_model(name, size).double()
        net = scratch.from_scratch(net) if by_hand else net
        train_iter, test_iter = (
            Batches(data.train_images, data.train_labels, 256, shuffle=True, size=size),
            Batches(data.test_images, data.test_labels, 256, size=size),
        )
        in_double = ((x.double(), y) for x, y in train_iter)
        result = train_epoch(net, in_double, torch.optim.Adam(net.parameters(), lr=1e-3))
        assert result.step_losses[-1] < result.step_losses[0]
        logits, labels = predict_logits(net, [(x.double(), y) for x, y in test_iter])
        losses.append(F.cross_entropy(logits, labels).item())
        print(name, "by hand" if by_hand else "torch", losses[-1], f"{result.seconds:.1f} s")
    assert losses[1] == pytest.approx(losses[0], abs=1e-8)
