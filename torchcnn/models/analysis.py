"""Analysis of networks: sizes, parameters, multiply-accumulates and receptive fields."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from torchcnn.layers import GlobalAvgPool2d
from torchcnn.text import table

# --- sizes along one axis -----------------------------------------------------------------------


def conv_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """Output size of a convolution or pooling: floor((i + 2p - d(k - 1) - 1) / s) + 1.

    >>> conv_output_size(224, 7, stride=2, padding=3)
    112
    """
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def valid_output_size(size: int, kernel: int, stride: int = 1) -> int:
    """Output size without padding, by TensorFlow's formula for VALID: ceil((i - k + 1) / s)."""
    return math.ceil((size - kernel + 1) / stride)


def same_output_size(size: int, stride: int = 1) -> int:
    """Output size with SAME padding, which does not depend on the kernel: ceil(i / s)."""
    return math.ceil(size / stride)


def conv_transpose_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> int:
    """Output size of a transposed convolution: (i - 1) s + k - 2p + output_padding.

    >>> conv_transpose_output_size(2, 3, stride=2)
    5
    """
    return (size - 1) * stride + kernel - 2 * padding + output_padding


def input_sizes(output: int, kernel: int, stride: int = 1, padding: int = 0) -> range:
    """Return all input sizes for which a convolution has the output size `output`.

    There are `stride` of them; `output_padding` tells a transposed convolution which to restore.

    >>> list(input_sizes(2, kernel=3, stride=2))
    [5, 6]
    """
    least = conv_transpose_output_size(output, kernel, stride, padding)
    return range(least, least + stride)


# --- networks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A row of `summary`, which describes one layer."""

    name: str  # its name in the network, as in `state_dict`
    kind: str
    output: tuple[int, ...]  # shape without the batch
    parameters: int
    macs: int  # multiply-accumulates for one image
    receptive_field: float  # side in pixels of what one output depends on; inf: the whole image
    stride: int  # distance in pixels of the image between two neighbouring outputs

    def cells(self) -> list[str]:
        """Return the layer's row of the printed table."""
        field = "all" if math.isinf(self.receptive_field) else f"{self.receptive_field:.0f}"
        shape = "×".join(map(str, self.output))
        numbers = [f"{self.parameters:,}", f"{self.macs:,}", field, str(self.stride)]
        return [self.name, self.kind, shape, *numbers]


class Summary(list[Layer]):
    """The layers of a network in order; `print` shows them as a table."""

    def __str__(self) -> str:
        head = ["layer", "kind", "output", "parameters", "MACs", "receptive field", "stride"]
        parameters, macs = sum(row.parameters for row in self), sum(row.macs for row in self)
        total = ["", "", "", f"{parameters:,}", f"{macs:,}", "", ""]
        return table([head, *(row.cells() for row in self), total], left={0, 1})


class _Tracer(torch.fx.Tracer):
    """Traces a network down to the layers of torch.nn, torchcnn.layers and torchcnn.scratch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__.startswith(("torchcnn.layers.", "torchcnn.scratch."))
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Walk(torch.fx.Interpreter):
    """Runs a network on the meta device and records its layers.

    `seen` contains the receptive field and the stride of each node.
    """

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__(traced)
        self.layers = Summary()
        self.seen: dict[torch.fx.Node, tuple[float, int]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        before = [self.seen[node] for node in n.all_input_nodes if node in self.seen]
        field = max((f for f, _ in before), default=1.0)
        stride = max((s for _, s in before), default=1)
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            field, stride = _field(module, field, stride)
            layer = Layer(
                name=str(n.target),
                kind=type(module).__name__,
                output=tuple(result.shape[1:]),
                parameters=sum(p.numel() for p in module.parameters()),
                macs=_macs(module, result),
                receptive_field=field,
                stride=stride,
            )
            self.layers.append(layer)
        self.seen[n] = field, stride
        n.meta["shape"] = tuple(result.shape[1:]) if isinstance(result, Tensor) else ()
        return result


def _first(value: Any) -> int:
    """Return the first number of a tuple, or the number itself."""
    return int(value[0] if isinstance(value, tuple) else value)


def _field(module: nn.Module, field: float, stride: int) -> tuple[float, int]:
    """Return receptive field and stride after a layer, given those before it."""
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        window = _first(getattr(module, "dilation", 1)) * (_first(module.kernel_size) - 1) + 1
        return field + (window - 1) * stride, stride * _first(module.stride)
    if isinstance(module, nn.Linear | GlobalAvgPool2d):
        return math.inf, stride
    return field, stride


def _macs(module: nn.Module, y: Tensor) -> int:
    """Return the multiply-accumulates per image of a layer whose output is `y`."""
    if isinstance(module, nn.Conv2d):
        return y[0].numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return y[0].numel() * module.in_features
    return 0


def _walk(net: nn.Module, input_size: tuple[int, int, int]) -> _Walk:
    """Trace a network and run it on the meta device. See `summary`."""
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
    """Return the graph of a network's layers, which does not depend on the size of the images.

    Raises:
        ValueError: If the network cannot be traced, because its control flow depends on the
            values of a tensor.
    """
    try:
        return _Tracer().trace(net)
    except (TypeError, torch.fx.proxy.TraceError) as error:
        raise ValueError(f"the network cannot be traced: {error}") from error


def summary(net: nn.Module, input_size: tuple[int, int, int]) -> Summary:
    """Return output shape, parameters, multiply-accumulates and receptive field of every layer.

    The result is a list of layers that prints as a table. Parallel branches are listed one after
    another; where they join, the largest receptive field counts. The network runs on the meta
    device, so that nothing is computed.

    Args:
        input_size: (channels, height, width) of one image.

    Raises:
        ValueError: If the network does not take such an image, or cannot be traced.
    """
    return _walk(net, input_size).layers


def trace(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[torch.fx.Graph, Summary]:
    """Return the graph of a network, with `meta["shape"]` on each node, and its `summary`."""
    walk = _walk(net, input_size)
    return walk.graph, walk.layers


def receptive_field(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[float, int]:
    """Return the receptive field of one output pixel and the stride, both in pixels of the image.

    It is computed by the recursion of https://distill.pub/2019/computing-receptive-fields: a layer
    with kernel size k adds (k - 1) times the stride of the layers before it. It is infinite after
    a dense layer or a global pooling.
    """
    walk = _walk(net, input_size)
    return walk.seen[next(iter(reversed(walk.graph.nodes)))]
