"""Networks of both frameworks as graphs of what has weights and of what joins branches."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.files import KINDS, Config, KerasFile, KerasLayer, Refused, layer_paths
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
            return _new_channels(node.name, tuple(args[1][4:]), before[0])
        flattens = node.target in (torch.flatten, "flatten") and args[1:] == (1,)
        slices = node.target is operator.getitem and args[1][:2] == (slice(None),) * 2
        if flattens or slices or node.target in WEIGHTLESS:
            return through(node.name, before[0])
    what = getattr(node.target, "__name__", node.target)
    raise Refused(f"the network computes {what} between its layers, unknown to Keras's")


def _new_channels(name: str, zeros: tuple[int, int], source: Op) -> Op:
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
        source, zeros = _unpadded(source)
        facts = {"kernel": kernel, "bias": module.bias is not None, "strides": module.stride,
                 "dilation": module.dilation, "padding": conv_padding(module, zeros)}  # fmt: skip
    elif kind == "dense":
        facts = {"kernel": (module.in_features, module.out_features),
                 "bias": module.bias is not None}  # fmt: skip
    else:
        features = module.gamma.numel() if isinstance(module, BatchNorm) else module.num_features
        facts = {"features": int(features), "epsilon": float(module.eps)}
    return Op(kind, name, facts, [source])


# --- Keras --------------------------------------------------------------------------------------

THROUGH = {  # without weights, and in inference without a say in where the weights belong
    "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Relu", "Sigmoid", "Tanh", "Identity",
    "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "MaxPooling2D",
    "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten", "RandomFlip",
    "RandomRotation", "RandomTranslation", "RandomZoom", "RandomContrast", "RandomBrightness",
}  # fmt: skip
JOINS = {"Add": "add", "Concatenate": "concat"}
MODELS = {"Sequential", "Functional", "Model"}


class KerasGraph:
    """Reads the configuration of a functional or sequential model into a reduced graph."""

    def __init__(self, file: KerasFile) -> None:
        self.legacy, self.flat = file.legacy, False
        self.layers = {layer.path: layer for layer in file.layers}

    def model(self, model: Config, source: Op, path: str) -> Op:
        config = model["config"]
        layers = config if isinstance(config, list) else config["layers"]  # a list: early Keras 2
        functional = isinstance(config, dict) and "output_layers" in config
        if functional and sum(layer["class_name"] == "InputLayer" for layer in layers) != 1:
            raise Refused("it has not one input")
        ops: dict[str, Op] = {}
        last = source
        for layer, where in zip(layers, layer_paths(layers, self.legacy), strict=True):
            name = str(layer.get("name") or layer["config"]["name"])
            nodes = layer.get("inbound_nodes")
            if nodes and len(nodes) > 1:
                raise Refused(f"its layer {name} is used twice")
            before = [ops[n] for n in _parents(nodes[0])] if nodes else [last]
            if functional and not nodes and layer["class_name"] != "InputLayer":
                raise Refused(f"its layer {name} has no input")
            last = ops[name] = self.op(layer, name, f"{path}/{where}".lstrip("/"), before)
        if functional:
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
        if config.get("data_format") == "channels_first":
            raise Refused(f"its layer {name} has its channels first")
        if config.get("axis", -1) not in (-1, 3, [-1], [3], *([1, [1]] if self.flat else [])):
            raise Refused(f"its layer {name} works along axis {config['axis']}, not the last")
        if kind in JOINS and len(before) > 1:
            return Op(JOINS[kind], name, inputs=before)
        (source,) = before
        self.flat = self.flat or kind in ("Flatten", "GlobalAveragePooling2D")
        if kind == "Permute":
            return self.permute(config["dims"], name, source)
        if kind == "Reshape" and sum(n != 1 for n in config["target_shape"]) == 1:
            return through(name, source)  # a vector, or an image of one pixel
        if kind in THROUGH:
            return through(name, source)
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = config["padding"]
            return Op("pad", name, {"zeros": (top, bottom, left, right)}, before)
        if kind not in ("Conv2D", "Dense", "BatchNormalization"):
            raise Refused(f"its layer {name} is a {kind}, which no network here has")
        weights = self.weights(path)
        if weights is None:
            raise Refused(f"it has no weights for its layer {name}")
        shape = weights.weights[0].shape
        if kind == "BatchNormalization":
            facts: Facts = {"features": int(shape[0]), "epsilon": float(config["epsilon"])}
        elif kind == "Dense":
            facts = {"kernel": shape, "bias": config["use_bias"]}
        else:
            source, zeros = _unpadded(source)
            strides, dilation = (
                (value, value) if isinstance(value, int) else tuple(value)
                for value in (config["strides"], config["dilation_rate"])
            )
            padding = _padding(config["padding"].lower(), shape[:2], strides, dilation, zeros)
            facts = {"kernel": shape, "bias": config["use_bias"], "strides": strides,
                     "dilation": dilation, "padding": padding}  # fmt: skip
        wanted = {"Conv2D": "conv", "Dense": "dense", "BatchNormalization": "norm"}[kind]
        if weights.kind != wanted:
            raise Refused(f"its layer {name} has not the weights of a {KINDS[wanted]}")
        return Op(wanted, name, facts, [source], weights=weights)

    def permute(self, dims: list[int], name: str, source: Op) -> Op:
        """Only to add channels of zeros, as `to_keras` does: swap, pad the width, swap again."""
        if list(dims) == [1, 3, 2] and source.kind != "pad":
            return Op("swapped", name, inputs=[source])
        if list(dims) == [1, 3, 2] and source.inputs[0].kind == "swapped":
            top, bottom, *zeros = source.facts["zeros"]
            if not top and not bottom:
                return _new_channels(name, tuple(zeros), source.inputs[0].inputs[0])
        raise Refused(f"its layer {name} permutes the axes of an image")

    def weights(self, path: str) -> KerasLayer | None:
        """The weights under a path; in a legacy file models within models leave their names out."""
        if path in self.layers or not self.legacy:
            return self.layers.get(path)
        first, last = path.split("/")[0], path.split("/")[-1]
        near = [p for p in self.layers if (p.split("/")[0], p.split("/")[-1]) == (first, last)]
        return self.layers[near[0]] if len(near) == 1 else None


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
