"""View a network's weights under Keras's names, and in its order and memory layout."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from torchcnn.keras_io.calls import channel_padding, is_flattening
from torchcnn.keras_io.files import Refused
from torchcnn.keras_io.networks import kind_of
from torchcnn.layers import BatchNorm, FlattenLayer


def keras_views(
    net: nn.Module, graph: Graph, image_channels: int | None = None
) -> dict[str, dict[str, Tensor]]:
    """Return the weights of every layer under Keras's names and in its order, by layer name.

    The tensors are views in Keras's layout: writing to them changes the network. The kernel of a
    dense layer has the shape (pixels, channels, out); Keras stores (pixels * channels, out).
    """
    # None are those of an image of which nothing is known but, once it is flattened, its size: 0.
    channels: dict[Node, int | None] = {}
    views = {}
    for node in graph.nodes:
        before = [channels[n] for n in node.all_input_nodes]
        known = [c for c in before if c]
        if not before:
            channels[node] = image_channels or _read_channels(net, node)
        elif node.target is torch.cat or channel_padding(node):
            if len(known) < len(before):
                raise Refused(f"the channels that {node.name} joins are not known")
            channels[node] = sum(known) + sum(channel_padding(node) or ())
        else:  # in a sum, one channel goes with several
            channels[node] = max(known) if known else before[0]
        module = net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module and kind_of(module):
            views[str(node.target)] = _views(module, before[0])
        if isinstance(module, nn.Conv2d):
            channels[node] = module.out_channels
        elif isinstance(module, nn.Linear):
            channels[node] = module.out_features
        elif isinstance(module, FlattenLayer | nn.Flatten) or is_flattening(node):
            channels[node] = channels[node] or 0
    return views


def _read_channels(net: nn.Module, image: Node) -> int | None:
    """Return the channels that a convolution reads from an image, if one does so directly."""
    modules = [net.get_submodule(str(n.target)) for n in image.users if n.op == "call_module"]
    return next((m.in_channels for m in modules if isinstance(m, nn.Conv2d)), None)


def _views(module: Any, channels: int | None) -> dict[str, Tensor]:
    """Return the weights of one layer; `channels` is the number of channels of its input."""
    views: dict[str, Any]
    if isinstance(module, BatchNorm):
        views = {
            "gamma": module.gamma,
            "beta": module.beta,
            "moving_mean": module.moving_mean,
            "moving_var": module.moving_var,
        }
        return {key: view.detach().view(-1) for key, view in views.items()}
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if not module.affine or not module.track_running_stats:
            raise Refused(
                "a batch norm needs weights and moving statistics to have a counterpart in Keras"
            )
        views = {
            "gamma": module.weight,
            "beta": module.bias,
            "moving_mean": module.running_mean,
            "moving_var": module.running_var,
        }
        return {key: view.detach() for key, view in views.items()}
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        if channels == 0:
            channels = _image_channels(module.in_features)
        channels = channels or module.in_features  # of vectors that never were images
        weight = weight.unflatten(1, (channels, -1))  # (out, c, pixels)
    views = {"kernel": weight.permute(2, 3, 1, 0) if weight.dim() == 4 else weight.permute(2, 1, 0)}
    return views | ({"bias": module.bias.detach()} if module.bias is not None else {})


def _image_channels(features: int) -> int:
    """Return the channels, 1 or 3, of a square image with this many values."""
    for channels in (1, 3):
        if math.isqrt(features // channels) ** 2 * channels == features:
            return channels
    raise Refused(f"{features} inputs do not form a square image of 1 or 3 channels")
