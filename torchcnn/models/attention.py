"""What a trained network looks at: its feature maps, and the part of the picture that counts."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchcnn.layers import FlattenLayer, GlobalAvgPool2d, as_defined

CAM, GRAD_CAM, GRADIENT = "class activation map", "Grad-CAM", "gradient × input"
# Layers that return their input in eval mode.
PASSING = (nn.Identity, nn.modules.dropout._DropoutNd)
FINE = 7  # pixels that a side of a map has at least, if the network has such maps

Call = tuple[nn.Module, Tensor]  # a layer that was called, and what it returned


class Attention(NamedTuple):
    """Where a network looks for a class, and what it answers."""

    heat: Tensor  # (h, w)
    logits: Tensor  # (num_classes,)
    target: int  # the class
    method: str  # CAM, GRAD_CAM or GRADIENT
    layer: str  # the name of the layer that returned the feature maps; empty for GRADIENT


def attention(
    net: nn.Module, x: Tensor, target: int | None = None, layer: str | None = None
) -> Attention:
    """Return where a network looks in an image: (1, c, h, w) -> a map (h', w').

    The network computes in eval mode, and afterwards is as it was. The map is:

    - The class activation map (Zhou et al. 2015, arXiv:1512.04150), sum_c w_kc f_c(x, y), if the
      network ends in the mean over all pixels and at most one linear layer. Here f is the last
      feature map, of more than one pixel, and w_k are the weights of class k. The map's mean plus
      the bias of the class is the logit exactly. If no linear layer follows the mean, as in NiN,
      it is the channel of the class.
    - Grad-CAM (Selvaraju et al. 2016, arXiv:1610.02391) for the other networks with convolutions:
      relu(sum_c a_c f_c(x, y)), where a_c is the mean over the pixels of the gradient of the logit
      with respect to f_c. Here f is the last feature map of at least 7 pixels a side: the very last
      ones of many networks have so few that they hardly say where.
    - The gradient times the input (Shrikumar et al. 2016, arXiv:1605.01713), summed over the
      channels, for networks without convolutions. For a linear network, its sum plus the bias of
      the class is the logit.

    Args:
        target: The number of the class; the most probable one if it is None.
        layer: The name of a stage or layer, as `stage_outputs` or `torchcnn.summary` has it: the
            map then is Grad-CAM of what it returns.

    Raises:
        ValueError: If `x` is not one image, if the network does not return a vector of logits for
            it, if there is no class of this number, or if the layer returns no feature maps.
    """
    if x.dim() != 4 or len(x) != 1:
        raise ValueError(f"attention takes one image (1, c, h, w), got {tuple(x.shape)}")
    x = x.detach().requires_grad_()  # so that there are gradients if all parameters are frozen
    names = {module: name for name, module in net.named_modules()}
    parts = _parts(net) if layer is None else [m for m, name in names.items() if name == layer]
    with torch.enable_grad(), _watched(net, parts) as calls:
        logits = net(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returns {shape} for an image, not logits (1, num_classes)")
    if target is None:
        target = int(logits.argmax())
    if not 0 <= target < logits.shape[1]:
        raise ValueError(f"there are the classes 0 to {logits.shape[1] - 1}, got {target}")
    if layer is None:
        heat, method, module = _heat(net, x, calls, logits[0, target], target)
        layer = names[module] if module else ""
    else:
        maps = [y for _, y in calls if is_map(y)]
        if not maps:
            stages = [name for name, y in stage_outputs(net, x).items() if is_map(y)]
            raise ValueError(f"no feature maps of layer {layer}, allowed are {', '.join(stages)}")
        try:
            heat, method = _grad_cam(logits[0, target], maps[-1]), GRAD_CAM
        except RuntimeError as error:
            raise ValueError(f"the logits do not depend on layer {layer}") from error
    return Attention(heat.detach(), logits[0].detach(), target, method, layer)


def is_map(y: Tensor) -> bool:
    """Whether a layer's output is feature maps, of more than one pixel."""
    return y.dim() == 4 and y[0, 0].numel() > 1


def _heat(
    net: nn.Module, x: Tensor, calls: Sequence[Call], logit: Tensor, target: int
) -> tuple[Tensor, str, nn.Module | None]:
    """Return the map (h, w) that `attention` describes, its method, and the layer."""
    maps = [i for i, (_, y) in enumerate(calls) if is_map(y)]
    if maps:
        last, features = calls[maps[-1]]
        after = [layer for layer, _ in calls[maps[-1] + 1 :]]
        if _is_plain(net) and (found := _class_weights(after, features, target)):
            weights, bias = found
            heat = torch.einsum("c,chw->hw", weights, features[0])
            # It is not exact where more has a hand in it: dropout that stays on in eval mode.
            terms = weights.abs() @ features[0].abs().mean((1, 2)) + bias.abs()
            rounding = math.sqrt(torch.finfo(logit.dtype).eps) * terms
            if (heat.mean() + bias - logit).abs() <= rounding:
                return heat, CAM, last
        if any(isinstance(module, _ConvNd) for module in net.modules()):
            sides = {i: min(calls[i][1].shape[2:]) for i in maps}
            fine = [i for i in maps if sides[i] >= min(FINE, max(sides.values()))]
            layer, features = calls[fine[-1]]
            return _grad_cam(logit, features), GRAD_CAM, layer
    (gradient,) = torch.autograd.grad(logit, x)
    return (gradient * x)[0].sum(0), GRADIENT, None


def _grad_cam(logit: Tensor, features: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(logit, features)
    return torch.einsum("c,chw->hw", gradient[0].mean((1, 2)), features[0]).relu()


def _class_weights(
    after: Sequence[nn.Module], features: Tensor, target: int
) -> tuple[Tensor, Tensor] | None:
    """Return a class's weights (c,) and bias, or None if `after` is not a mean and a linear layer.

    Args:
        after: The layers after the feature maps, in the order in which they are called.
    """
    layers = [layer for layer in after if not isinstance(layer, PASSING)]
    if not all(map(as_defined, after)) or not layers or not _is_global_mean(layers.pop(0)):
        return None
    linear = layers.pop() if layers and isinstance(layers[-1], nn.Linear) else None
    if not all(isinstance(layer, FlattenLayer | nn.Flatten) for layer in layers):
        return None
    if isinstance(linear, nn.Linear):
        bias = features.new_zeros(()) if linear.bias is None else linear.bias[target]
        return linear.weight[target], bias
    weights = F.one_hot(torch.tensor(target, device=features.device), features.shape[1])
    return weights.to(features), features.new_zeros(())


def _is_global_mean(layer: nn.Module) -> bool:
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    return isinstance(layer, GlobalAvgPool2d)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a chain of its children: it calls one after another, and no more."""
    return type(module).forward is nn.Sequential.forward and as_defined(module)


def _parts(net: nn.Module) -> Iterator[nn.Module]:
    """Return the children of a network; a chain of layers, at any depth, is replaced by its own.

    All that reaches the output of a chain passes through each of its layers. That is not so for
    the paths of a block, which therefore is one part.
    """
    for child in net.children():
        yield from _parts(child) if _is_plain(child) else (child,)


@contextmanager
def _watched(net: nn.Module, modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Put a network into eval mode, and collect the tensors that some of its modules return.

    They are in the order in which they are computed.
    """
    calls: list[Call] = []

    def collect(module: nn.Module, _: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        calls.append((module, output))
        return output.clone()  # the next layer may write into what it is given

    modes = [(module, module.training) for module in net.modules()]
    hooks = [module.register_forward_hook(collect) for module in dict.fromkeys(modules)]
    try:
        net.eval()
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:  # which may differ, if some are frozen
            module.training = mode


def stage_outputs(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the feature maps (n, c, h, w) that each child of a network returns, by its name.

    The network computes in eval mode, and afterwards is as it was. A child that returns something
    else, such as vectors (n, c), is left out.
    """
    names = {module: name for name, module in net.named_children()}
    with torch.no_grad(), _watched(net, names) as calls:
        net(x)
    return {names[module]: y for module, y in calls if y.dim() == 4}


def strongest(maps: Tensor, count: int) -> list[int]:
    """Return the numbers of the channels of (c, h, w) with the largest mean absolute activation.

    There are up to `count`, the largest first.
    """
    means = maps.abs().mean((1, 2))
    return means.argsort(descending=True, stable=True)[:count].tolist()


def first_weights(net: nn.Module, image: tuple[int, int, int]) -> Tensor | None:
    """Return the weights with which a network looks at an image, as small images.

    They are the kernels (out_channels, in_channels, kh, kw) of its first convolution. For a
    network without convolutions they are the rows of its first linear layer, (units, c, h, w). If
    these are not of the image's size, or there is no such layer, it returns None.

    Args:
        image: The shape (c, h, w) of the images that the network takes.
    """
    conv = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    dense = next((m for m in net.modules() if isinstance(m, nn.Linear)), None)
    if conv:
        return conv.weight.detach()
    if dense and dense.in_features == math.prod(image):
        return dense.weight.detach().view(-1, *image)
    return None


def enlarge(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map to the picture's (h, w), bicubically: the corners are those of the pixels.

    No value is beyond those of the map.
    """
    resized = F.interpolate(heat[None, None], size, mode="bicubic", align_corners=False)
    return resized[0, 0].clamp(heat.min(), heat.max())
