"""Analysis of networks: sizes, parameters, multiply-accumulates and receptive fields."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from torchcnn.files import table
from torchcnn.models.receptive import Axes, Axis, after_function, after_layer, join

Sides = float | tuple[float, float]  # one number if height and width agree, or (height, width)

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
    parameters: int  # without those of the rows above, with which the layer may share them
    macs: int  # multiply-accumulates for one image
    receptive_field: Sides  # side in pixels of what one output depends on; inf: the whole image
    stride: Sides  # distance in pixels of the image between two neighbouring outputs

    def cells(self) -> list[str]:
        """Return the layer's row of the printed table."""
        shape = "×".join(map(str, self.output))
        numbers = [f"{self.parameters:,}", f"{self.macs:,}"]
        sides = (_text(self.receptive_field), _text(self.stride))
        return [self.name, self.kind, shape, *numbers, *sides]


def _text(sides: Sides) -> str:
    """Return a receptive field or stride for the table: 11, 3×5 or all."""
    if isinstance(sides, tuple):
        return "×".join(map(_text, sides))
    return "all" if math.isinf(sides) else f"{sides:.10g}"


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

    `seen` contains the axes of each node that depends on the image. `owners` identifies parameters
    by their names in the network, because layers that share one have a copy each on the meta
    device.
    """

    def __init__(self, traced: torch.fx.GraphModule, owners: dict[str, int]) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # errors are one line
        self.layers = Summary()
        self.seen: dict[torch.fx.Node, Axes] = {}
        self.owners = owners
        self.counted: set[int] = set()

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["shape"] = tuple(result.shape[1:]) if isinstance(result, Tensor) else ()
        if n.op == "placeholder":
            self.seen[n] = Axis(), Axis()
        elif n.op == "get_attr" and isinstance(result, nn.Parameter):
            self._record(n, "Parameter", result.shape, {str(n.target): result}, 0, None)
        elif n.op == "call_module":
            self._layer(n, result)
        elif n.op in ("call_function", "call_method") and _holds_tensors(result):
            self._function(n, result)
        return result

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Do not run what keeps the shape: its decompositions on the meta device are slow."""
        module, x = self.fetch_attr(target), args[0] if args else None
        if isinstance(x, Tensor) and len(args) == 1 and not kwargs:
            is_norm = type(module) is nn.BatchNorm2d and x.dim() == 4
            if type(module) is nn.ReLU or (is_norm and x.shape[1] == module.num_features):
                return torch.empty_like(x)
        return super().call_module(target, args, kwargs)

    def _function(self, n: torch.fx.Node, result: Any) -> None:
        """Follow a function or method that is called, or refuse one that is not known."""
        inputs = [i for i in n.all_input_nodes if i in self.seen]
        if not inputs:  # a constant
            return
        axes = join(*(self.seen[i] for i in inputs))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        values = [self.env[i] for i in inputs]
        axes = axes and after_function(n.target, args, kwargs, axes, values, result)
        if axes is None:
            name = getattr(n.target, "__name__", n.target)
            raise ValueError(f"the receptive field and MACs of {name} ({n}) are not known")
        self.seen[n] = axes

    def _layer(self, n: torch.fx.Node, result: Any) -> None:
        """Record a layer that is called, or refuse one that is not known."""
        module: Any = self.fetch_attr(str(n.target))
        kind, inputs = type(module).__name__, [i for i in n.all_input_nodes if i in self.seen]
        axes: Axes | None = None
        x: Any = self.env[inputs[0]] if inputs else None
        if isinstance(x, Tensor) and len(inputs) == 1:
            axes = after_layer(module, self.seen[inputs[0]], x, result)
        if axes is None:
            raise ValueError(
                f"the receptive field and MACs of layer {n.target} ({kind}) are not known"
                + (f" for an input of {tuple(x.shape[1:])}" if isinstance(x, Tensor) else "")
            )
        self.seen[n] = axes
        y = result[0] if isinstance(result, tuple) else result
        parameters = {f"{n.target}.{name}": p for name, p in module.named_parameters()}
        self._record(n, kind, y.shape[1:], parameters, _macs(module, y), axes)

    def _record(
        self,
        n: torch.fx.Node,
        kind: str,
        output: Any,
        parameters: dict[str, Tensor],
        macs: int,
        axes: Axes | None,
    ) -> None:
        """Add a row; a parameter counts in the first row that has it."""
        new = {self.owners.get(name, id(p)): p.numel() for name, p in parameters.items()}
        count = sum(size for owner, size in new.items() if owner not in self.counted)
        self.counted |= set(new)
        field, stride = _sides(axes) if axes else (0.0, 0)
        self.layers.append(Layer(str(n.target), kind, tuple(output), count, macs, field, stride))


def _holds_tensors(value: Any) -> bool:
    values = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(v, Tensor) for v in values)


def _sides(axes: Axes) -> tuple[Sides, Sides]:
    """Return receptive field and stride, as numbers if both agree along height and width."""
    h, w = axes
    if (h.field, h.stride) == (w.field, w.stride):
        return h.field, h.stride
    return (h.field, w.field), (h.stride, w.stride)


def _macs(module: nn.Module, y: Tensor) -> int:
    """Return the multiply-accumulates of a layer with the output y for one image.

    Those of normalisation, activations and poolings do not count.
    """
    if isinstance(module, nn.Conv2d):
        return y.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    return 0


def _walk(net: nn.Module, input_size: tuple[int, int, int]) -> _Walk:
    """Trace a network and run it on the meta device. See `summary`."""
    owners = {name: id(p) for name, p in net.named_parameters(remove_duplicate=False)}
    net = copy.deepcopy(net).to("meta", torch.float32).eval()
    try:
        walk = _Walk(torch.fx.GraphModule(net, layer_graph(net)), owners)
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

    The result is a list of layers that prints as a table, with a row for every call of a layer. A
    parameter counts in the first row that has it. Parallel branches are listed one after another;
    where they join, an output depends on all that the branches see. The network runs on the meta
    device, so that nothing is computed.

    Args:
        input_size: (channels, height, width) of one image.

    Raises:
        ValueError: If the network does not take such an image, cannot be traced, or has a layer or
            function whose receptive field and multiply-accumulates are not known; the message names
            it.
    """
    return _walk(net, input_size).layers


def trace(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[torch.fx.Graph, Summary]:
    """Return the graph of a network, with `meta["shape"]` on each node, and its `summary`."""
    walk = _walk(net, input_size)
    return walk.graph, walk.layers


def receptive_field(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[Sides, Sides]:
    """Return the receptive field of one output pixel and the stride, both in pixels of the image.

    Each is a number, or a pair (height, width) if they differ in height and width. The receptive
    field reaches from the first to the last pixel that an output depends on, and does not end at
    the edges of the image. It follows the recursion of
    https://distill.pub/2019/computing-receptive-fields: a layer with kernel size k adds (k - 1)
    times the stride of the layers before it. It is infinite after a dense layer or a global
    pooling, whatever the size of the image.

    Raises:
        ValueError: As for `summary`, or if the network has several outputs with different strides.
    """
    walk = _walk(net, input_size)
    outputs = next(iter(reversed(walk.graph.nodes))).all_input_nodes
    axes = [walk.seen[n] for n in outputs if n in walk.seen]
    joined = join(*axes) if axes else None
    if joined is None:
        raise ValueError("expected outputs that depend on the image, with one stride")
    return _sides(joined)
