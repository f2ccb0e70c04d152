"""A network as a graph of what has weights and of what joins branches, as Keras would put it."""

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.files import KerasLayer, Refused
from torchcnn.layers import BatchNorm, SameConv2d

Facts = dict[str, Any]  # what must be the same in both, by its name in an error message


@dataclass(eq=False)
class Op:
    """A node of a reduced graph."""

    kind: str  # input, conv, dense, norm, pad, channels, after, add, concat
    name: str
    facts: Facts = field(default_factory=dict)
    inputs: list["Op"] = field(default_factory=list)
    depth: int = 0  # nodes on the longest way from the input
    signature: int = 0  # equal for all that is computed alike
    weights: KerasLayer | None = None  # of a node of Keras's

    def __post_init__(self) -> None:
        self.depth = 1 + max((op.depth for op in self.inputs), default=0)
        below = [op.signature for op in self.inputs]
        below = sorted(below) if self.kind == "add" else below
        self.signature = hash((self.kind, repr(self.facts), tuple(below)))


def listed(output: Op) -> list[tuple[Op, list[int]]]:
    """Every node after its inputs, with their places in the list; equal for equal graphs.

    A sum's longest branch comes first: which of its terms is written first does not matter.
    """
    place: dict[Op, int] = {}
    rows: list[tuple[Op, list[int]]] = []

    def visit(op: Op) -> None:
        if op in place:
            return
        inputs = op.inputs
        if op.kind == "add":
            inputs = sorted(inputs, key=lambda i: (-i.depth, i.signature))
        for i in inputs:
            visit(i)
        place[op] = len(rows)
        rows.append((op, [place[i] for i in inputs]))

    visit(output)
    return rows


# --- torch --------------------------------------------------------------------------------------


def kind_of(module: nn.Module) -> str:
    """conv, dense or norm for a layer whose weights Keras has too; empty for all others."""
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, nn.Linear):
        return "dense"
    return "norm" if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | BatchNorm) else ""


def keras_name(name: str) -> str:
    """stage1.0.conv1 -> stage1_0_conv1: in a name of Keras there is neither a dot nor a slash."""
    return name.replace(".", "_")


def conv_padding(conv: nn.Conv2d, before: tuple[int, ...] = (0, 0, 0, 0)) -> str | tuple[int, ...]:
    """What a convolution pads: "same" as Keras means it, or zeros (top, bottom, left, right)."""
    if isinstance(conv, SameConv2d) or conv.padding == "same":
        return padding_name("same", conv.kernel_size, conv.stride, conv.dilation, before)
    own: Any = (0, 0) if conv.padding == "valid" else conv.padding
    (h, w), (top, bottom, left, right) = own, before
    return padding_name("valid", conv.kernel_size, conv.stride, conv.dilation,
                    (top + h, bottom + h, left + w, right + w))  # fmt: skip


def padding_name(
    padding: str, kernel: Any, stride: Any, dilation: Any, zeros: tuple[int, ...]
) -> Any:
    """One name for one thing: symmetric zeros that keep the size at stride 1 are SAME."""
    window = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if not any(window):
        return zeros
    if padding == "same":
        return "same" if not any(zeros) else (*zeros, "same")
    half = (window[0] / 2, window[0] / 2, window[1] / 2, window[1] / 2)
    return "same" if tuple(stride) == (1, 1) and zeros == half else zeros


def unpadded(source: Op) -> tuple[Op, tuple[int, ...]]:
    """What comes before a padding, and the zeros that it adds."""
    if source.kind == "pad":
        return source.inputs[0], source.facts["zeros"]
    return source, (0, 0, 0, 0)


def through(name: str, source: Op) -> Op:
    """A layer without weights: nothing, unless it keeps a padding from its convolution."""
    return Op("after", name, inputs=[source]) if source.kind == "pad" else source


WEIGHTLESS = {  # functions and methods that may stand between layers, and change no weights
    F.relu, torch.relu, torch.sigmoid, torch.tanh, F.max_pool2d, F.avg_pool2d,
    F.adaptive_avg_pool2d, F.dropout, "relu", "sigmoid", "tanh", "mean",
}  # fmt: skip


def torch_ops(net: nn.Module, graph: Graph) -> Op:
    """The reduced graph of a network.

    Raises:
        Refused: it computes something between its layers whose counterpart in Keras is not known.
    """
    ops: dict[Node, Op] = {}
    called: set[nn.Module] = set()
    for node in graph.nodes:
        before = [ops[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            ops[node] = Op("input", node.name)
        elif node.op == "call_module":
            module = net.get_submodule(str(node.target))
            if kind_of(module) and module in called:
                raise Refused(f"the network calls its layer {node.target} twice")
            called.add(module)
            ops[node] = _torch_op(str(node.target), module, before)
        elif node.op == "output" and len(before) == 1:
            ops[node] = before[0]
        else:
            ops[node] = _torch_function(node, before)
    return ops[next(iter(reversed(graph.nodes)))]


def _torch_function(node: Node, before: list[Op]) -> Op:
    args: Any = node.args
    dim = node.kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if node.target in (operator.add, torch.add) and len(before) == 2:
        return Op("add", node.name, inputs=before)
    if node.target is torch.cat and dim == 1:
        return Op("concat", node.name, inputs=before)
    if len(before) == 1:
        if node.target is F.pad and len(args[1]) == 6 and not any(args[1][:4]):
            return new_channels(node.name, tuple(args[1][4:]), before[0])
        flattens = node.target in (torch.flatten, "flatten") and args[1:] == (1,)
        slices = node.target is operator.getitem and args[1][:2] == (slice(None),) * 2
        if flattens or slices or node.target in WEIGHTLESS:
            return through(node.name, before[0])
    what = getattr(node.target, "__name__", node.target)
    raise Refused(f"the network computes {what} between its layers, unknown to Keras's")


def new_channels(name: str, zeros: tuple[int, int], source: Op) -> Op:
    """Channels of zeros before and behind those that there are."""
    return Op("channels", name, {"zeros": zeros}, [source]) if any(zeros) else source


def _torch_op(name: str, module: Any, before: list[Op]) -> Op:
    kind = kind_of(module)
    if isinstance(module, nn.ZeroPad2d):
        left, right, top, bottom = module.padding
        return Op("pad", name, {"zeros": (top, bottom, left, right)}, before)
    if not kind and any(True for _ in module.parameters()):
        raise Refused(
            f"layer {name} is a {type(module).__name__}; weights are known of convolutions, dense "
            "layers and batch norms"
        )
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
        raise Refused(f"layer {name} flattens another axis than all but the first")
    if not kind:
        return through(name, before[0])
    (source,) = before
    if kind == "conv" and module.padding_mode != "zeros":
        raise Refused(f"layer {name} pads with {module.padding_mode!r}, Keras with zeros")
    if kind == "conv":
        kernel = (*module.kernel_size, module.in_channels // module.groups, module.out_channels)
        source, zeros = unpadded(source)
        facts = {"kernel": kernel, "bias": module.bias is not None, "strides": module.stride,
                 "dilation": module.dilation, "padding": conv_padding(module, zeros)}  # fmt: skip
    elif kind == "dense":
        facts = {"kernel": (module.in_features, module.out_features),
                 "bias": module.bias is not None}  # fmt: skip
    else:
        features = module.gamma.numel() if isinstance(module, BatchNorm) else module.num_features
        facts = {"features": int(features), "epsilon": float(module.eps)}
    return Op(kind, name, facts, [source])
