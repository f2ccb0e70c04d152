"""Whole networks on hand-written layers against the same networks on torch's."""

import copy
import pickle

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from small_networks import HEAVY, ONE_OF_EACH, small
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from torchcnn import create_model, scratch
from torchcnn.layers import SameAvgPool2d

DEEP = {"vgg11_bn", "resnet50", "densenet121"}
# A smaller member of the same family is in the default suite.
LARGE = HEAVY | {"alexnet", "googlenet", "resnet18", "tf_vgg13", "tf_resnet18"}
BY_HAND = [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in ONE_OF_EACH]


@pytest.mark.parametrize("name", BY_HAND)
def test_every_network_is_the_same_by_hand(name):
    """Keys, logits, gradients and moving statistics, in train and eval mode."""
    # The last norm of deep networks sees one pixel an image at this size. The standard deviation
    # of 3 numbers may be nearly 0, and rounding blown up to 1e-5 in the gradients; not that of 8.
    net, x = small(name, batch=8 if name in DEEP else 3)
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


# --- torch.fx traces them as it traces networks on torch's layers ---------------------------------


def same(one, other, net, x, statistics=True):
    """Two functions have the same outputs, and leave the same statistics in the network."""
    before, found = copy.deepcopy(net.state_dict()), []
    for function in (one, other):
        net.load_state_dict(before)
        torch.manual_seed(1)  # of dropout
        found.append([function(x), *(b.clone() for b in net.buffers() if statistics)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "stage"),
    [("lenet", "stage2"), ("alexnet", "stage3"), ("resnet18", "stage2"),
     ("densenet", "transition2"), ("tf_baseline", "stage1"), ("tf_inception10", "stage1")],
)  # fmt: skip
def test_a_traced_network_by_hand(name, stage):
    net, x = small(name)
    twin = scratch.from_scratch(net)
    traced = torch.fx.symbolic_trace(twin)
    called = [node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"]
    assert called.count("conv2d") == sum(isinstance(m, nn.Conv2d) for m in net.modules())
    for one in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        same(net, one, net, x, statistics=one is traced)  # the copies have their own
    extractors = [
        create_feature_extractor(one, [stage], suppress_diff_warning=True) for one in (net, twin)
    ]
    for training in (True, False):
        theirs, ours = (one.train(training) for one in extractors)
        # The moving statistics of Keras's batch norm are written by nodes of the graph that
        # features do not depend on, so that torchvision removes them.
        same(theirs, ours, net, x, statistics=not name.startswith("tf_"))


def test_the_layers_that_no_network_has():
    net = nn.Sequential(
        nn.ZeroPad2d((1, 0, 2, 1)), nn.LeakyReLU(0.2), SameAvgPool2d(3, 2), nn.Tanh(), nn.Sigmoid(),
        nn.AvgPool2d(2, ceil_mode=True), nn.BatchNorm2d(3, momentum=None), nn.Flatten(2),
        nn.BatchNorm1d(3, affine=False), nn.Flatten(), nn.BatchNorm1d(27), nn.Dropout(),
        nn.Linear(27, 2), nn.Unflatten(1, (1, 2)), nn.BatchNorm1d(1, track_running_stats=False),
    ).double()  # fmt: skip
    for k, training in enumerate((True, True, True, False)):
        net.train(training)
        twin, x = scratch.from_scratch(net), k + torch.randn(2, 3, 9, 8, dtype=torch.float64)
        same(net, twin, net, x)
        same(net, torch.fx.symbolic_trace(twin), net, x)


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (2, 3, 4, 4)), (nn.BatchNorm2d, (2, 3, 4))]
)
def test_norms_take_the_axes_of_torchs(kind, shape):
    for norm in (kind(3), scratch.from_scratch(kind(3))):
        with pytest.raises(ValueError, match="expected"):
            norm(torch.ones(shape))
