"""Every number of one forward pass: what each layer took, what it computed, and from what.

With the window that each output sees of its inputs, and with the layer's weights, each number can
be computed again by hand.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from torchcnn.layers import BatchNorm, FlattenLayer, GlobalAvgPool2d, SameAvgPool2d, as_defined
from torchcnn.models.analysis import trace
from torchcnn.models.attention import PASSING
from torchcnn.models.receptive import Axes, Axis, after_function, after_layer

HERE = Axis(), Axis()  # an output sees the input at its own place
LAYERS: dict[str, Any] = {  # what a layer does, by its class
    "conv": nn.Conv2d,
    "max": nn.MaxPool2d | nn.AdaptiveMaxPool2d,
    "mean": nn.AvgPool2d | nn.AdaptiveAvgPool2d | GlobalAvgPool2d,
    "norm": nn.BatchNorm1d | nn.BatchNorm2d | BatchNorm,
    "dense": nn.Linear,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "take": (*PASSING, FlattenLayer, nn.Flatten, nn.Unflatten, nn.ZeroPad2d, nn.ChannelShuffle),
}
FUNCTIONS = {  # what a function or method does, by its name
    **{name: name for name in ("relu", "sigmoid", "tanh", "mean")},
    **dict.fromkeys(("add", "iadd"), "add"),
    **dict.fromkeys(("cat", "concat"), "concat"),
    "adaptive_avg_pool2d": "mean",
    **dict.fromkeys(("getitem", "pad", "flatten", "reshape", "view", "squeeze"), "take"),
    **dict.fromkeys(("unsqueeze", "dropout", "dropout2d", "contiguous", "clone"), "take"),
    **dict.fromkeys(("detach", "to", "float"), "take"),
}


@dataclass(frozen=True)
class Step:
    """A layer or function of a forward pass."""

    name: str  # its own, also if a layer is called twice
    op: str  # a key of `LAYERS`, add, concat, or other: what is not computed again by hand
    kind: str  # its class or function
    path: tuple[tuple[str, str], ...]  # the modules around it: names in the network, and classes
    inputs: tuple[int, ...]  # the steps whose outputs it takes
    value: Tensor | None  # its output (c, h, w), a vector as (c, 1, 1); None if it is none of both
    window: Axes = HERE  # what an output sees of each input
    parameters: int = 0
    layer: Any = None
    source: Tensor | None = None  # of take: the number of the input's unit that is here, -1 is 0


def steps(net: nn.Module, x: Tensor) -> list[Step]:
    """Run a network in eval mode on an image (1, c, h, w), and return all that it computed.

    Both are on the CPU.

    The first step is the image, the last one the output. What returns its input as it is, as
    dropout does in eval mode, is left out.

    Raises:
        ValueError: As for `summary`, or if the output is not (1, num_classes).
    """
    graph = trace(net, (x.shape[1], x.shape[2], x.shape[3]))
    recorder = _Recorder(torch.fx.GraphModule(copy.deepcopy(net).eval(), graph))
    with torch.no_grad():
        output = recorder.run(x)
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise ValueError("the network returns no vector of logits for an image")
    last: Any = next(iter(reversed(graph.nodes))).args[0]
    if recorder.place[last] != len(recorder.steps) - 1:
        raise ValueError("the network's last layer does not return its output")
    return recorder.steps


class _Recorder(torch.fx.Interpreter):
    """Runs a traced network, and makes a `Step` of each node that depends on the image."""

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # errors are one line
        self.steps: list[Step] = []
        self.place: dict[torch.fx.Node, int] = {}  # the step that has a node's output

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        inputs = tuple(i for i in n.all_input_nodes if i in self.place)
        if n.op == "placeholder":
            self._add(n, Step(n.name, "picture", "", (), (), _maps(result)))
        elif inputs and n.op != "output":
            self._add(n, self._step(n, inputs, result))
        return result

    def _add(self, n: torch.fx.Node, step: Step) -> None:
        whole = self.steps[step.inputs[0]].value if step.op == "take" else None
        if whole is not None and step.source is not None and whole.shape == step.source.shape:
            numbers = torch.arange(whole.numel()).view(whole.shape)
            if torch.equal(step.source, numbers):  # it is the input itself
                self.place[n] = step.inputs[0]
                return
        self.place[n] = len(self.steps)
        self.steps.append(step)

    def _step(self, n: torch.fx.Node, inputs: tuple[torch.fx.Node, ...], y: Any) -> Step:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        values = [self.env[i] for i in inputs]
        around = n.meta.get("nn_module_stack", {}).values()
        path = tuple((str(name), module.__name__) for name, module in around)
        layer, source = None, None
        if n.op == "call_module":
            layer = self.fetch_attr(str(n.target))
            op, kind = _layer_op(layer), type(layer).__name__
            window = after_layer(layer, HERE, values[0], y)
            path = path[:-1]
        else:
            kind = str(getattr(n.target, "__name__", n.target)).strip("_")
            op = FUNCTIONS.get(kind, "other")
            plain = len(values) == 2 and not n.kwargs
            if op == "add" and not (plain and values[0].shape == values[1].shape == y.shape):
                op = "other"
            window = after_function(n.target, args, kwargs, HERE, values, y)
        if op == "take":
            source = self._source(n, inputs[0], y) if isinstance(values[0], Tensor) else None
            op = "other" if source is None else op
        places = tuple(self.place[i] for i in inputs)
        window = window or (HERE[0].everything(), HERE[1].everything())
        new = n.meta.get("parameters", 0)
        return Step(n.name, op, kind, path, places, _maps(y), window, new, layer, source)

    def _source(self, n: torch.fx.Node, taken: torch.fx.Node, y: Tensor) -> Tensor | None:
        """Return the number of the unit of `taken` that each unit of y is, -1 where it is 0.

        It is tried: what the node calls gets the numbers themselves in place of the units. The
        result is (c, h, w), or None if y is computed.
        """
        x = self.env[taken]
        numbers = torch.arange(1.0, x.numel() + 1, dtype=torch.float64).view(x.shape)
        args, kwargs = torch.fx.node.map_arg(
            (n.args, n.kwargs), lambda i: numbers if i is taken else self.env[i]
        )
        source, maps = _maps(getattr(super(), n.op)(n.target, args, kwargs)), _maps(y)
        units = torch.cat([x.new_zeros(1), x.flatten()])
        if source is None or maps is None or not ((source >= 0) & (source <= x.numel())).all():
            return None  # also what is padded with another number than 0
        if not torch.equal(units[source.long()], maps):
            return None
        return source.long() - 1


def _maps(value: Any) -> Tensor | None:
    """Return a copy of an output for one image as (c, h, w), because a layer may write into it."""
    if not isinstance(value, Tensor) or value.dim() not in (2, 4) or len(value) != 1:
        return None
    return value[0].reshape(value.shape[1], *(value.shape[2:] or (1, 1))).clone()


def _layer_op(layer: Any) -> str:
    """Return what a layer does, or other if its options are not those that are done by hand."""
    op = next((op for op, kinds in LAYERS.items() if isinstance(layer, kinds)), "other")
    unusual = (
        getattr(layer, "padding_mode", "zeros") != "zeros"
        or (op == "mean" and getattr(layer, "ceil_mode", False))
        or getattr(layer, "divisor_override", None)
        or (op == "norm" and getattr(layer, "running_mean", layer) is None)
    )
    return "other" if unusual or not as_defined(layer) else op


# --- what a layer needs to be computed again ----------------------------------------------------


def norm_numbers(layer: Any) -> dict[str, Tensor]:
    """Return mean, variance, gamma and beta (c,) of a batch norm, in eval mode."""
    if isinstance(layer, BatchNorm):
        mean, var, gamma, beta = layer.moving_mean, layer.moving_var, layer.gamma, layer.beta
    else:
        mean, var, gamma, beta = layer.running_mean, layer.running_var, layer.weight, layer.bias
    gamma, beta = (
        torch.full_like(mean, value) if given is None else given
        for given, value in ((gamma, 1.0), (beta, 0.0))
    )
    named = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
    return {name: t.detach().flatten() for name, t in named.items()}


def kernels(layer: Any, outputs: list[int]) -> Tensor:
    """Return the kernels of some outputs for all inputs, (outputs, in_channels, kh, kw).

    They are 0 for the channels of other groups.
    """
    weight = layer.weight.detach()
    whole = weight.new_zeros(len(outputs), layer.in_channels, *weight.shape[2:])
    taken = weight.shape[1]
    for row, output in enumerate(outputs):
        first = output // (layer.out_channels // layer.groups) * taken
        whole[row, first : first + taken] = weight[output]
    return whole


def convolve(step: Step, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps (c, h, w) with some kernels as the layer of a step does, without the bias."""
    assert step.value is not None
    pads: list[int] = []
    for axis, size, count in zip(step.window, x.shape[1:], step.value.shape[1:], strict=True):
        last = (count - 1) * axis.stride + int(axis.last)
        pads = [-int(axis.first), last - (size - 1), *pads]
    x = nn.functional.pad(x[None], pads)
    return nn.functional.conv2d(x, weight, None, step.layer.stride, 0, step.layer.dilation)[0]


def counts_padding(layer: Any) -> bool:
    """Whether an average pooling divides by the size of its window also at the edges."""
    same = isinstance(layer, SameAvgPool2d)
    return isinstance(layer, nn.AvgPool2d) and layer.count_include_pad and not same


def is_everything(axes: Axes) -> bool:
    return any(math.isinf(axis.field) for axis in axes)
