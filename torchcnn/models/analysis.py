"""What a network is before it runs: sizes, parameters, multiply-accumulates, receptive fields."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from torchcnn.layers import GlobalAvgPool2d
from torchcnn.text import table

# --- sizes of one axis --------------------------------------------------------------------------


def conv_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """Pixels that a convolution or pooling leaves: floor((i + 2p - d(k - 1) - 1) / s) + 1.

    >>> conv_output_size(224, 7, stride=2, padding=3)
    112
    """
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def valid_output_size(size: int, kernel: int, stride: int = 1) -> int:
    """The same in TensorFlow's words for no padding: ceil((i - k + 1) / s)."""
    return math.ceil((size - kernel + 1) / stride)


def same_output_size(size: int, stride: int = 1) -> int:
    """Pixels that SAME leaves, whatever the kernel: ceil(i / s)."""
    return math.ceil(size / stride)


def conv_transpose_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> int:
    """Pixels that a transposed convolution makes: (i - 1) s + k - 2p, and what is added behind.

    >>> conv_transpose_output_size(2, 3, stride=2)
    5
    """
    return (size - 1) * stride + kernel - 2 * padding + output_padding


def input_sizes(output: int, kernel: int, stride: int = 1, padding: int = 0) -> range:
    """All sizes of which a convolution leaves `output` pixels; there are `stride` of them.

    This is why a transposed convolution has to be told which of them it should give back.

    >>> list(input_sizes(2, kernel=3, stride=2))
    [5, 6]
    """
    least = conv_transpose_output_size(output, kernel, stride, padding)
    return range(least, least + stride)


# --- networks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A row of `summary`: a layer, and what leaves it."""

    name: str  # in the network, as `state_dict` spells it
    kind: str
    output: tuple[int, ...]  # without the batch
    parameters: int
    macs: int  # multiply-accumulates for one image
    receptive_field: float  # pixels a side that one output sees; inf: the whole image
    stride: int  # pixels of the input between two neighbours


class Summary(list[Layer]):
    """The layers of a network, in order; `print` shows them as a table."""

    def __str__(self) -> str:
        head = ["layer", "kind", "output", "parameters", "MACs", "sees", "stride"]
        rows = [
            [row.name, row.kind, "×".join(map(str, row.output)), f"{row.parameters:,}",
             f"{row.macs:,}", "all" if math.isinf(row.receptive_field) else
             f"{row.receptive_field:.0f}", str(row.stride)]
            for row in self
        ]  # fmt: skip
        total = ["", "", "", f"{sum(r.parameters for r in self):,}",
                 f"{sum(r.macs for r in self):,}", "", ""]  # fmt: skip
        return table([head, *rows, total], left={0, 1})


class _Tracer(torch.fx.Tracer):
    """Takes a network apart down to the layers of torch.nn and of torchcnn.layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__.startswith(("torchcnn.layers.", "torchcnn.scratch."))
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Walk(torch.fx.Interpreter):
    """Runs a network on the meta device; `seen` is (receptive field, stride) by node."""

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__(traced)
        self.layers = Summary()
        self.seen: dict[torch.fx.Node, tuple[float, int]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        before = [self.seen[node] for node in n.all_input_nodes if node in self.seen]
        field, stride = (
            max((f for f, _ in before), default=1.0),
            max((s for _, s in before), default=1),
        )
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            field, stride = _field(module, field, stride)
            parameters = sum(p.numel() for p in module.parameters())
            self.layers.append(
                Layer(str(n.target), type(module).__name__, tuple(result.shape[1:]),
                      parameters, _macs(module, result), field, stride)
            )  # fmt: skip
        self.seen[n] = field, stride
        n.meta["shape"] = tuple(result.shape[1:]) if isinstance(result, Tensor) else ()
        return result


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _field(module: nn.Module, field: float, stride: int) -> tuple[float, int]:
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        window = _first(getattr(module, "dilation", 1)) * (_first(module.kernel_size) - 1) + 1
        return field + (window - 1) * stride, stride * _first(module.stride)
    if isinstance(module, nn.Linear | GlobalAvgPool2d):
        return math.inf, stride
    return field, stride


def _macs(module: nn.Module, y: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        return y[0].numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return y[0].numel() * module.in_features
    return 0


def _walk(net: nn.Module, input_size: tuple[int, int, int]) -> _Walk:
    """Take a network apart and run it on the meta device. See `summary`."""
    net = copy.deepcopy(net).to("meta", torch.float32).eval()
    try:
        walk = _Walk(torch.fx.GraphModule(net, layer_graph(net)))
        with torch.no_grad():
            walk.run(torch.empty(1, *input_size, device="meta"))
    except (RuntimeError, TypeError, torch.fx.proxy.TraceError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"the network cannot take an image of {input_size}: {first}") from error
    return walk


def layer_graph(net: nn.Module) -> torch.fx.Graph:
    """A network as the graph of its layers, whatever the size of its images.

    Raises:
        ValueError: it decides by what is in a tensor, and has no graph.
    """
    try:
        return _Tracer().trace(net)
    except (TypeError, torch.fx.proxy.TraceError) as error:
        raise ValueError(f"the network has no graph: {error}") from error


def summary(net: nn.Module, input_size: tuple[int, int, int]) -> Summary:
    """Every layer of a network: output shape, parameters, multiply-accumulates, receptive field.

    A list of layers that prints as a table. Nothing is computed: the network runs on the meta
    device. A parallel branch is followed by its neighbour; where branches meet, the largest
    receptive field goes on.

    Args:
        input_size: (channels, height, width) of one image.

    Raises:
        ValueError: the network cannot take such an image, or cannot be traced.
    """
    return _walk(net, input_size).layers


def trace(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[torch.fx.Graph, Summary]:
    """The graph of a network, its nodes' shapes in `meta`, and its layers. See `summary`."""
    walk = _walk(net, input_size)
    return walk.graph, walk.layers


def receptive_field(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[float, int]:
    """What one output pixel of a convolutional network sees: (pixels a side, stride).

    The recursion of https://distill.pub/2019/computing-receptive-fields: a layer of window k adds
    (k - 1) times the stride so far. Infinite behind a dense layer or global pooling.
    """
    walk = _walk(net, input_size)
    return walk.seen[next(iter(reversed(walk.graph.nodes)))]
