"""Analysis of networks: sizes, parameters, multiply-accumulates and receptive fields."""

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.func import functional_call

from torchcnn.files import plural, table
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
    kernel: Sides | None  # of a convolution or pooling
    stride: Sides | None  # its own
    output: tuple[int, ...]  # shape without the batch
    parameters: int  # without those of the rows above, with which the layer may share them
    macs: int  # multiply-accumulates for one image
    receptive_field: Sides  # side in pixels of what one output depends on; inf: the whole image
    cumulated_stride: Sides  # distance in pixels of the image between two neighbouring outputs

    def cells(self) -> list[str]:
        """Return the layer's row of the printed table."""
        shape = "×".join(map(str, self.output))
        numbers = [f"{self.parameters:,}", f"{self.macs:,}"]
        own, seen = (self.kernel, self.stride), (self.receptive_field, self.cumulated_stride)
        return [self.name, self.kind, *map(_text, own), shape, *numbers, *map(_text, seen)]


def _text(sides: Sides | None) -> str:
    """Return a kernel, receptive field or stride for the table: 11, 3×5 or all."""
    if sides is None:
        return ""
    if isinstance(sides, tuple):
        return "×".join(map(_text, sides))
    return "all" if math.isinf(sides) else f"{sides:.10g}"


class Summary(list[Layer]):
    """The layers of a network in order; `print` shows them as a table, stage by stage.

    `depth` is the number of layers with weights on the longest path to the outputs, which is what
    the names of VGG-16 and ResNet-18 count: parallel branches and 1×1 shortcuts do not add to it.
    """

    depth = 0

    def __str__(self) -> str:
        head = ["layer", "kind", "kernel", "stride", "output", "parameters", "MACs"]
        rows = [[*head, "receptive field", "cumulated stride"]]
        for stage, layers in itertools.groupby(self, lambda layer: layer.name.split(".")[0]):
            cells = [layer.cells() for layer in layers]
            if len(cells) > 1:  # a line for the stage, and its layers below
                rows.append([stage, *[""] * 8])
                cells = [["  " + name, *others] for name, *others in cells]
            rows += cells
        parameters, macs = sum(row.parameters for row in self), sum(row.macs for row in self)
        rows.append(["total", "", "", "", "", f"{parameters:,}", f"{macs:,}", "", ""])
        text = f"the longest path has {plural(self.depth, 'layer')} with weights"
        return f"{table(rows, left={0, 1})}\n\n{text}"

    __repr__ = __str__  # the last expression of a notebook's cell is a table too


class _Tracer(torch.fx.Tracer):
    """Traces a network down to the layers of torch.nn, torchcnn.layers and torchcnn.scratch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__.startswith(("torchcnn.layers.", "torchcnn.scratch."))
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Walk(torch.fx.Interpreter):
    """Runs a network with arbitrary numbers and records its layers.

    `seen` contains the axes of each node that depends on the image, and `depths` the number of
    layers with weights on the longest path to each node. `counted` contains the identities of the
    parameters that are in a row.
    """

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # errors are one line
        self.layers = Summary()
        self.seen: dict[torch.fx.Node, Axes] = {}
        self.depths: dict[torch.fx.Node, int] = {}
        self.counted: set[int] = set()

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        self.depths[n] = max((self.depths[i] for i in n.all_input_nodes), default=0)
        n.meta["shape"] = tuple(result.shape[1:]) if isinstance(result, Tensor) else ()
        inputs = [i for i in n.all_input_nodes if i in self.seen]
        if n.op == "placeholder":
            self.seen[n] = Axis(), Axis()
        elif n.op == "get_attr" and isinstance(result, nn.Parameter):
            self._record(n, result, result.shape, [result])
        elif n.op == "call_module":
            self._layer(n, inputs, result)
        elif inputs and n.op != "output" and _holds_tensors(result):
            self._function(n, inputs, result)
        return result

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute only the first outputs of the layers that would take most of the time."""
        layer: Any = self.fetch_attr(target)
        if not isinstance(layer, nn.Conv2d | nn.Linear) or "weight" not in layer._parameters:
            return super().call_module(target, args, kwargs)
        first = {name: p[: getattr(layer, "groups", 1)] for name, p in layer.named_parameters()}
        y = functional_call(layer, first, args, kwargs)
        if isinstance(layer, nn.Linear):
            return y.new_empty(*y.shape[:-1], layer.out_features)
        return y.new_empty(len(y), layer.out_channels, *y.shape[2:])

    def _function(self, n: torch.fx.Node, inputs: Sequence[torch.fx.Node], result: Any) -> None:
        """Follow a function or method that is called, or refuse one that is not known."""
        axes = join(*(self.seen[i] for i in inputs))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        values = [self.env[i] for i in inputs]
        axes = axes and after_function(n.target, args, kwargs, axes, values, result)
        if axes is None:
            name = getattr(n.target, "__name__", n.target)
            raise ValueError(f"the receptive field and MACs of {name} ({n}) are not known")
        self.seen[n] = axes

    def _layer(self, n: torch.fx.Node, inputs: Sequence[torch.fx.Node], result: Any) -> None:
        """Record a layer that is called, or refuse one that is not known."""
        module: Any = self.fetch_attr(str(n.target))
        axes: Axes | None = None
        x: Any = self.env[inputs[0]] if inputs else None
        if isinstance(x, Tensor) and len(inputs) == 1:
            axes = after_layer(module, self.seen[inputs[0]], x, result)
        if axes is None:
            name = f"layer {n.target} ({type(module).__name__})"
            given = f" for an input of {tuple(x.shape[1:])}" if isinstance(x, Tensor) else ""
            raise ValueError(f"the receptive field and MACs of {name} are not known{given}")
        self.seen[n] = axes
        y = result[0] if isinstance(result, tuple) else result
        weighs = isinstance(module, nn.Conv2d | nn.Linear)  # others do not count
        macs = y.numel() * module.weight[0].numel() if weighs else 0
        self.depths[n] += macs > 0
        self._record(n, module, y.shape[1:], module.parameters(), macs, axes)

    def _record(
        self,
        n: torch.fx.Node,
        module: Any,
        shape: Sequence[int],
        parameters: Iterable[Tensor],
        macs: int = 0,
        axes: Axes | None = None,
    ) -> None:
        """Add a row for a layer, or for a parameter that is used by itself."""
        new = {id(p): p.numel() for p in parameters if id(p) not in self.counted}
        self.counted |= set(new)
        field, stride = _sides(axes) if axes else (0.0, 0)
        kernel, own = (_side(getattr(module, name, None)) for name in ("kernel_size", "stride"))
        n.meta["parameters"] = sum(new.values())
        sizes = (tuple(shape), n.meta["parameters"], macs)
        row = Layer(str(n.target), type(module).__name__, kernel, own, *sizes, field, stride)
        self.layers.append(row)
        self.layers.depth = max(self.layers.depth, self.depths[n])


def _holds_tensors(value: Any) -> bool:
    values = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(v, Tensor) for v in values)


def _sides(axes: Axes) -> tuple[Sides, Sides]:
    """Return receptive field and stride, as numbers if both agree along height and width."""
    h, w = axes
    if (h.field, h.stride) == (w.field, w.stride):
        return h.field, h.stride
    return (h.field, w.field), (h.stride, w.stride)


def _side(value: Any) -> Sides | None:
    """Return the kernel or stride of a layer, as a number if both sides agree."""
    if not isinstance(value, tuple) or len(value) != 2:
        return value if isinstance(value, int) else None
    return value[0] if value[0] == value[1] else value


def _walk(net: nn.Module, input_size: tuple[int, int, int]) -> _Walk:
    """Trace a copy of a network and run it. See `summary`.

    The copy's parameters are memory that nothing is written to, so that it takes none. On the meta
    device torch would import its compiler for most operations, which takes seconds.
    """
    try:
        copies: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty(p.shape, device="cpu"), requires_grad=False)
            for p in net.parameters()
        }
        for b in net.buffers():  # which may be indices
            dtype = torch.float32 if b.is_floating_point() else b.dtype
            copies[id(b)] = torch.zeros(b.shape, dtype=dtype, device="cpu")
        net = copy.deepcopy(net, copies).eval()
        walk = _Walk(torch.fx.GraphModule(net, layer_graph(net)))
        with torch.no_grad():
            walk.run(torch.empty(1, *input_size, device="cpu"))
    except (RuntimeError, TypeError) as error:
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
    where they join, an output depends on all that the branches see. Of convolutions
    and dense layers only the first outputs are computed.

    Args:
        input_size: (channels, height, width) of one image.

    Raises:
        ValueError: If the network does not take such an image, cannot be traced, or has a layer or
            function whose receptive field and multiply-accumulates are not known; the message names
            it.
    """
    return _walk(net, input_size).layers


def trace(net: nn.Module, input_size: tuple[int, int, int]) -> torch.fx.Graph:
    """Return the graph of what `summary` lists.

    The `meta` of a node has the "shape" of its output, and "parameters" as its row has them.
    """
    return _walk(net, input_size).graph


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
