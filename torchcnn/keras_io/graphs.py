"""Networks of both frameworks as graphs of what has weights and of what joins branches."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.files import KINDS, Config, KerasFile, KerasLayer, Refused, layer_paths
from torchcnn.layers import BatchNorm, SameConv2d

Facts = dict[str, Any]  # what must be the same in both, by its name in an error message


@dataclass(eq=False)
class Op:
    """A node of a reduced graph."""

    kind: str  # input, conv, dense, norm, pad, add, concat
    name: str
    facts: Facts = field(default_factory=dict)
    inputs: list["Op"] = field(default_factory=list)
    depth: int = 0  # nodes on the longest way from the input

    def __post_init__(self) -> None:
        self.depth = 1 + max((op.depth for op in self.inputs), default=0)


def listed(output: Op) -> list[tuple[Op, list[int]]]:
    """Every node after its inputs, with their places in the list; equal for equal graphs.

    A sum's longer branch comes first: which of its terms is written first does not matter.
    """
    place: dict[Op, int] = {}
    rows: list[tuple[Op, list[int]]] = []

    def visit(op: Op) -> None:
        if op in place:
            return
        inputs = sorted(op.inputs, key=lambda i: -i.depth) if op.kind == "add" else op.inputs
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
        return _padding("same", conv.kernel_size, conv.stride, conv.dilation, before)
    own: Any = (0, 0) if conv.padding == "valid" else conv.padding
    (h, w), (top, bottom, left, right) = own, before
    return _padding("valid", conv.kernel_size, conv.stride, conv.dilation,
                    (top + h, bottom + h, left + w, right + w))  # fmt: skip


def _padding(padding: str, kernel: Any, stride: Any, dilation: Any, zeros: tuple[int, ...]) -> Any:
    """One name for one thing: symmetric zeros that keep the size at stride 1 are SAME."""
    window = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if not any(window):
        return zeros
    if padding == "same":
        return "same" if not any(zeros) else (*zeros, "same")
    half = (window[0] / 2, window[0] / 2, window[1] / 2, window[1] / 2)
    return "same" if tuple(stride) == (1, 1) and zeros == half else zeros


def _unpadded(source: Op) -> tuple[Op, tuple[int, ...]]:
    """What comes before a padding, and the zeros that it adds."""
    if source.kind == "pad":
        return source.inputs[0], source.facts["zeros"]
    return source, (0, 0, 0, 0)


def torch_ops(net: nn.Module, graph: Graph) -> Op:
    """The reduced graph of a network."""
    ops: dict[Node, Op] = {}
    for node in graph.nodes:
        before = [ops[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            ops[node] = Op("input", node.name)
        elif node.op == "call_module":
            ops[node] = _torch_op(str(node.target), net.get_submodule(str(node.target)), before)
        elif node.target in (operator.add, torch.add):
            ops[node] = Op("add", node.name, inputs=before)
        elif node.target is torch.cat:
            ops[node] = Op("concat", node.name, inputs=before)
        elif node.op != "get_attr":
            ops[node] = before[0]  # slices, zeros for new channels, the output
    return ops[next(iter(reversed(graph.nodes)))]


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
    if not kind:
        return before[0]
    (source,) = before
    if kind == "conv":
        kernel = (*module.kernel_size, module.in_channels // module.groups, module.out_channels)
        source, zeros = _unpadded(source)
        facts = {"kernel": kernel, "bias": module.bias is not None, "strides": module.stride,
                 "dilation": module.dilation, "padding": conv_padding(module, zeros)}  # fmt: skip
    elif kind == "dense":
        facts = {"kernel": (module.in_features, module.out_features),
                 "bias": module.bias is not None}  # fmt: skip
    else:
        features = module.gamma.numel() if isinstance(module, BatchNorm) else module.num_features
        facts = {"features": features, "epsilon": module.eps}
    return Op(kind, name, facts, [source])


# --- Keras --------------------------------------------------------------------------------------

THROUGH = {
    "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Relu", "Sigmoid", "Tanh", "Dropout",
    "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "MaxPooling2D", "AveragePooling2D",
    "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten", "Reshape", "Permute", "Identity",
}  # fmt: skip
JOINS = {"Add": "add", "Concatenate": "concat"}
MODELS = {"Sequential", "Functional", "Model"}


class KerasGraph:
    """Reads the configuration of a functional or sequential model into a reduced graph."""

    def __init__(self, file: KerasFile) -> None:
        self.legacy = file.legacy
        self.layers = {layer.path: layer for layer in file.layers}
        self.found: dict[str, KerasLayer] = {}  # by the name of its Op

    def model(self, model: Config, source: Op, path: str) -> Op:
        config = model["config"]
        layers = config if isinstance(config, list) else config["layers"]  # a list: early Keras 2
        ops: dict[str, Op] = {}
        last = source
        for layer, where in zip(layers, layer_paths(layers, self.legacy), strict=True):
            name = str(layer.get("name") or layer["config"]["name"])
            nodes = layer.get("inbound_nodes")
            if nodes and len(nodes) > 1:
                raise Refused(f"its layer {name} is used twice")
            before = [ops[n] for n in _parents(nodes[0])] if nodes else [last]
            last = ops[name] = self.op(layer, name, f"{path}/{where}".lstrip("/"), before)
        if isinstance(config, dict) and "output_layers" in config:
            outputs = config["output_layers"]
            names = [outputs[0]] if isinstance(outputs[0], str) else [o[0] for o in outputs]
            if len(names) != 1:
                raise Refused(f"it has {len(names)} outputs")
            last = ops[names[0]]
        return last

    def op(self, layer: Config, name: str, path: str, before: list[Op]) -> Op:
        kind, config = layer["class_name"], layer["config"]
        if kind == "InputLayer":
            return before[0]
        if kind in MODELS:
            return self.model(layer, before[0], path)
        if kind in JOINS:
            return Op(JOINS[kind], name, inputs=before)
        if kind in THROUGH:
            return before[0]
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = config["padding"]
            return Op("pad", name, {"zeros": (top, bottom, left, right)}, before)
        if kind not in ("Conv2D", "Dense", "BatchNormalization"):
            raise Refused(f"its layer {name} is a {kind}, which no network here has")
        if path not in self.layers:
            raise Refused(f"it has no weights for its layer {name}")
        weights = self.layers[path]
        (source,), shape = before, weights.weights[0].shape
        if config.get("data_format") == "channels_first":
            raise Refused(f"its layer {name} has its channels first")
        if kind == "BatchNormalization":
            facts: Facts = {"features": shape[0], "epsilon": config["epsilon"]}
        elif kind == "Dense":
            facts = {"kernel": shape, "bias": config["use_bias"]}
        else:
            source, zeros = _unpadded(source)
            strides, dilation = tuple(config["strides"]), tuple(config["dilation_rate"])
            padding = _padding(config["padding"].lower(), shape[:2], strides, dilation, zeros)
            facts = {"kernel": shape, "bias": config["use_bias"], "strides": strides,
                     "dilation": dilation, "padding": padding}  # fmt: skip
        self.found[path] = weights
        wanted = {"Conv2D": "conv", "Dense": "dense", "BatchNormalization": "norm"}[kind]
        if weights.kind != wanted:
            raise Refused(f"its layer {name} has not the weights of a {KINDS[wanted]}")
        return Op(wanted, path, facts, [source])


def _parents(node: Any) -> Iterator[str]:
    """The layers that a node takes its inputs from, in either of Keras's ways to write it."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
        else:
            for value in node.values():
                yield from _parents(value)
    elif isinstance(node, list):
        if len(node) in (3, 4) and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0]
        else:
            for value in node:
                yield from _parents(value)


def input_channels(file: KerasFile) -> int | None:
    """The channels of the images that a Keras model takes, where its file says so."""
    config = file.config or {}
    shape = (config.get("build_config") or {}).get("input_shape")
    layers = config["config"].get("layers") if isinstance(config.get("config"), dict) else None
    if layers:
        first = layers[0]["config"]
        shape = first.get("batch_shape") or first.get("batch_input_shape") or shape
    return int(shape[3]) if isinstance(shape, list) and len(shape) == 4 and shape[3] else None
