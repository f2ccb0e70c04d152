"""Which layer of a Keras model is which of a torch network: by their graphs, never by luck.

Both graphs are reduced to what has weights and to what joins branches, and written down from the
output backwards, a branch of a concatenation after the other. Equal lists are equal networks.
Files without a graph say less; there every order that the file itself suggests must agree.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.files import Config, KerasFile, KerasLayer, Refused, layer_paths
from torchcnn.layers import BatchNorm, SameConv2d

Facts = dict[str, Any]  # what must be the same in both, by its name in an error message
KINDS = {"conv": "convolution", "dense": "dense layer", "norm": "batch norm", "add": "sum",
         "concat": "concatenation", "pad": "padding", "input": "input"}  # fmt: skip


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


def conv_padding(conv: nn.Conv2d, before: tuple[int, ...] = (0, 0, 0, 0)) -> str | tuple[int, ...]:
    """What a convolution pads: "same" as Keras means it, or zeros (top, bottom, left, right)."""
    if isinstance(conv, SameConv2d) or conv.padding == "same":
        return _padding("same", conv.kernel_size, conv.stride, conv.dilation, before)
    if conv.padding == "valid":
        return before
    (h, w), (top, bottom, left, right) = conv.padding, before
    return _padding("valid", conv.kernel_size, conv.stride, conv.dilation,
                    (top + int(h), bottom + int(h), left + int(w), right + int(w)))  # fmt: skip


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


class _Keras:
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


# --- matching -----------------------------------------------------------------------------------

Pair = tuple[str, KerasLayer]  # a layer of the torch network, and its weights


def match(net: nn.Module, graph: Graph, file: KerasFile) -> list[Pair]:
    """Every layer of a network that has weights, with its counterpart in a file.

    Raises:
        Refused: the networks differ, or the file does not say enough to tell layers apart.
    """
    output = torch_ops(net, graph)
    ours = {op.name: op for op, _ in listed(output) if op.facts and op.kind != "pad"}
    theirs = {layer.name: layer for layer in file.layers}
    for layer in file.layers:
        if not layer.kind:
            raise Refused(f"its layer {layer.path} is no {', '.join(list(KINDS.values())[:3])}")
    if theirs.keys() == ours.keys() and len(theirs) == len(file.layers):
        pairs = [(name, theirs[name]) for name in ours]
        for name, layer in pairs:
            compare(ours[name], layer)
        return pairs
    if file.config and file.config.get("class_name") in MODELS:
        reader = _Keras(file)
        other = reader.model(file.config, Op("input", "its input"), "")
        return [
            (op.name, reader.found[twin.name])
            for op, twin in _same(output, other)
            if twin.name in reader.found
        ]
    return _by_order(net, graph, ours, file)


def _same(ours: Op, theirs: Op) -> Iterator[tuple[Op, Op]]:
    """The nodes of two equal graphs, pair by pair; the first that differ are the error."""
    a, b = listed(ours), listed(theirs)
    for (op, inputs), (twin, twin_inputs) in zip(a, b, strict=False):
        if op.kind != twin.kind:
            raise Refused(
                f"its {twin.name} is a {KINDS[twin.kind]}, "
                f"where the network's {op.name} is a {KINDS[op.kind]}"
            )
        for fact, value in op.facts.items():
            if twin.facts[fact] != value:
                raise Refused(f"its {twin.name} has {fact} {twin.facts[fact]}, "
                                 f"where the network's {op.name} has {value}")  # fmt: skip
        if inputs != twin_inputs:
            raise Refused(f"its {twin.name} and the network's {op.name} take other inputs")
        yield op, twin
    if len(a) != len(b):
        rest, whose = (a, "the network's") if len(a) > len(b) else (b, "its")
        raise Refused(f"{whose} {rest[min(len(a), len(b))][0].name} has no counterpart")


def compare(op: Op, layer: KerasLayer) -> None:
    """Hold a layer against weights whose model is not known.

    Raises:
        Refused: another kind or another shape.
    """
    if op.kind != layer.kind:
        raise Refused(f"its {layer.path} is a {KINDS[layer.kind]}, "
                         f"where the network's {op.name} is a {KINDS[op.kind]}")  # fmt: skip
    shape = layer.weights[0].shape
    wanted = (op.facts["features"],) if op.kind == "norm" else op.facts["kernel"]
    if shape != wanted:
        raise Refused(f"its {layer.path} has the shape {shape}, "
                         f"where the network's {op.name} has {wanted}")  # fmt: skip
    if op.kind != "norm" and op.facts["bias"] != (len(layer.weights) == 2):
        have = ("no bias", "a bias") if op.facts["bias"] else ("a bias", "no bias")
        raise Refused(f"its {layer.path} has {have[0]}, "
                         f"where the network's {op.name} has {have[1]}")  # fmt: skip


def _by_order(net: nn.Module, graph: Graph, ours: dict[str, Op], file: KerasFile) -> list[Pair]:
    """A file without a graph: weights alone, or a model that is code.

    It suggests up to three orders: as its layers were made, which their numbers tell (conv2d_7),
    against the order in which ours were; and as they are listed, against ours, and against the
    order in which Keras lists the layers of a graph. Those that fit must agree.
    """
    made = [name for name, _ in net.named_modules() if name in ours]
    by_depth = [name for name in _keras_order(graph) if name in ours]
    functional = all(re.fullmatch("layers/[^/]+", layer.path) for layer in file.layers)
    orders: list[tuple[list[str], Callable[[KerasLayer], int] | None]] = [(made, _number)]
    if file.legacy or functional:
        orders.append((by_depth, None))
    if file.legacy or not functional:
        orders.append((made, None))
    fitting: list[list[Pair]] = []
    first_error: Refused | None = None
    for names, key in orders:
        try:
            fitting.append(_in_order([ours[name] for name in names], file.layers, key))
        except Refused as error:
            first_error = first_error or error
    if not fitting:
        raise first_error or Refused("it holds no layers")
    for other in fitting[1:]:
        for (name, layer), (_, twin) in zip(sorted(fitting[0]), sorted(other), strict=True):
            if layer.path != twin.path:
                raise Refused(f"its {layer.path} and {twin.path} both fit the network's {name}: "
                                 "give the model, or its .keras file, which holds the graph")  # fmt: skip
    return fitting[0]


def _number(layer: KerasLayer) -> int:
    """How many layers of its kind were made before it, as Keras's names count them."""
    found = re.fullmatch(r"(?:conv2d|dense|batch_normalization)(?:_(\d+))?", layer.name)
    if not found:
        raise Refused(f"its layer {layer.name or layer.path} bears no number of Keras's")
    return int(found[1] or 0)


def _in_order(
    ours: list[Op], layers: list[KerasLayer], key: Callable[[KerasLayer], int] | None
) -> list[Pair]:
    """Pair the layers of each kind in order, the first of ours with the first of theirs."""
    theirs: dict[str, list[KerasLayer]] = {"conv": [], "dense": [], "norm": []}
    for layer in sorted(layers, key=key) if key else layers:
        theirs[layer.kind].append(layer)
    pairs = []
    for op in ours:
        if not theirs[op.kind]:
            raise Refused(f"it has no {KINDS[op.kind]} for the network's {op.name}")
        layer = theirs[op.kind].pop(0)
        compare(op, layer)
        pairs.append((op.name, layer))
    for rest in theirs.values():
        if rest:
            raise Refused(f"the network has no {KINDS[rest[0].kind]} for its {rest[0].path}")
    return pairs


def _keras_order(graph: Graph) -> list[str]:
    """Layers as Keras lists those of a graph: by steps to the output, then as met from there."""
    steps: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        steps[node] = max((steps[user] + 1 for user in node.users), default=0)
    met: dict[Node, int] = {}
    waiting = [next(iter(reversed(graph.nodes)))]
    while waiting:
        node = waiting.pop()
        if node not in met:
            met[node] = len(met)
            waiting += reversed(node.all_input_nodes)
    order = sorted(met, key=lambda node: (-steps[node], met[node]))
    return [str(node.target) for node in order]
