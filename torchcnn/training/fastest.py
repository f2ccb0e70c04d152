"""What this machine trains a network faster with: bfloat16 or float32, and which memory format."""

import copy
import json
import platform
import time
import timeit
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchcnn.models.registry import build_model, find_model
from torchcnn.scratch import from_scratch
from torchcnn.training.config import Config
from torchcnn.training.distributed import World
from torchcnn.training.fast_layers import fast_layers
from torchcnn.training.loop import eval_mode

Batch = tuple[Tensor, Tensor]
SECONDS = 1.6  # for all measured steps together
BEST_OF = 3  # the fastest of so many steps counts, because others may have been interrupted


class Fastest(NamedTuple):
    """A precision and a memory format, and why."""

    amp: str  # "off", "bf16" or "fp16"
    channels_last: bool
    note: str


def decide(
    config: Config,
    model_spec: dict[str, Any],
    device: torch.device,
    world: World,
    net: nn.Module | None = None,
) -> tuple[Config, dict[str, str]]:
    """Replace what is "auto" in a configuration; also return the reason by the name of the flag.

    The main rank decides for all. Numbers that are drawn at random afterwards do not depend on it.
    """
    autos = [name for name in ("amp", "channels_last") if getattr(config, name) == "auto"]
    if not autos:
        return config, {}
    decided = ""
    if world.is_main:
        with torch.random.fork_rng(devices=[]):
            net = build_empty(model_spec) if net is None else copy.deepcopy(net)
            net = from_scratch(net) if config.layers == "scratch" else net
            n = -(-config.batch_size // world.world_size // config.accumulate)  # a whole part
            shape = (n, model_spec["in_channels"], *[model_spec["input_size"]] * 2)
            x, y = torch.rand(shape), torch.randint(model_spec["num_classes"], (n,))
            batch = x.to(device), y.to(device)
            decided = json.dumps(fastest(net.to(device), batch, config.amp, config.channels_last))
    amp, channels_last, note = json.loads(world.broadcast_text(decided))
    return replace(config, amp=amp, channels_last=channels_last), dict.fromkeys(autos, note)


def build_empty(model_spec: dict[str, Any]) -> nn.Module:
    """Build a network whose weights are 0, since to draw those of VGG-11 takes over a second."""
    if model_spec["input_size"] < find_model(model_spec["arch"]).input[1]:
        return build_model(**model_spec)  # such a size is tried, see `create_model`
    with torch.device("meta"):
        net = build_model(**model_spec)
    net = net.to_empty(device="cpu")
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.detach().zero_()
    return net


def fastest(
    net: nn.Module, batch: Batch, amp: str = "auto", channels_last: bool | str = "auto"
) -> Fastest:
    """Choose what is "auto", and keep what is not.

    On a CPU steps are measured with each combination, on copies of the network and on as many
    images of the batch as less than 2 seconds allow. For a network that is too large for that, and
    on other devices, the kind of the processor decides; so it does on a CPU with AMX if a whole
    batch takes too long, for steps of a part of it, each of which converts all weights, do not show
    what the matrix units gain.

    Args:
        net: a network on its device; it is left as it is.
        batch: images (n, c, h, w) and labels, as one step takes them.
        amp: "off", "bf16", "fp16" or "auto".
        channels_last: True, False or "auto".
    """
    device = batch[0].device
    amps = [amp] if amp != "auto" else ["off", *["bf16"] * has_bf16(device)]
    formats = [bool(channels_last)] if channels_last != "auto" else [False, True]
    ways = list(product(amps, formats))
    if len(ways) == 1:
        return Fastest(*ways[0], "nothing else to choose from")
    bf16, x = "bf16" in amps, batch[0]
    # Tensor cores and AMX want channels last; of other processors it is not known.
    prefers_last = amps[-1] != "off" if device.type != "cpu" else bf16 and has_amx()
    by_kind = Fastest(amps[-1], formats[-1 if prefers_last else 0], "by the device")
    if device.type != "cpu":
        return by_kind
    if is_too_slow(net, x[:1], 2, len(ways)) or (
        bf16 and has_amx() and is_too_slow(net, x[:8], len(x), len(ways))
    ):
        return by_kind._replace(note="by the processor; a step takes too long to measure")
    with torch.random.fork_rng(devices=[]):
        seconds = measure(net, batch, ways)
    best = min(seconds, key=lambda way: seconds[way])
    times = seconds[ways[0]] / seconds[best]
    note = f"{times:.2f} times the speed of {describe(*ways[0])}, measured"
    return Fastest(*best, note if best != ways[0] else f"the fastest of {len(ways)}, measured")


def is_too_slow(net: nn.Module, x: Tensor, images: int, ways: int) -> bool:
    """Whether two steps of so many images in each way take more than `SECONDS`.

    A step computes three times what a forward pass does, which is tried with the images x.
    """
    with eval_mode(net), torch.no_grad():
        seconds = min(timeit.repeat(lambda: net(x), number=1, repeat=2))  # the first warms up
    return 2 * images * 3 * ways * seconds / len(x) > SECONDS


def measure(
    net: nn.Module, batch: Batch, ways: list[tuple[str, bool]]
) -> dict[tuple[str, bool], float]:
    """Return the seconds of a step in each way, of those for which there was time."""
    steps = {way: make_step(net, *way) for way in ways}
    x, y = batch
    n = min(2, len(y))
    began = time.perf_counter()
    for step in steps.values():  # also warms up
        step(x[:n], y[:n])
    a_step = max(time.perf_counter() - began, 1e-4) / len(ways)
    # One step more to warm up, for the new size of the batch.
    n = max(n, min(len(y), int(n * SECONDS / (a_step * len(ways) * (BEST_OF + 1)))))
    seconds = dict.fromkeys(ways, float("inf"))
    for i in range(BEST_OF + 1):
        for way, step in steps.items():
            start = time.perf_counter()
            step(x[:n], y[:n])
            if i or start - began > SECONDS:
                seconds[way] = min(seconds[way], time.perf_counter() - start)
        if time.perf_counter() - began > SECONDS:
            break
    return seconds


def make_step(net: nn.Module, amp: str, channels_last: bool) -> Callable[[Tensor, Tensor], Any]:
    """Return a function that makes a step of training, without the optimizer, on a copy."""
    net = copy.deepcopy(net).train()
    if channels_last:
        net = net.to(memory_format=torch.channels_last)

    def step(x: Tensor, y: Tensor) -> None:
        net.zero_grad()
        with fast_layers(net):
            with autocast(amp, x.device):
                loss = F.cross_entropy(net(x), y)
            loss.backward()

    return step


def autocast(amp: str, device: torch.device, cache: bool = True) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in the precision of the flag `--amp`.

    With `cache` a weight that is used twice is converted once; a CUDA graph is captured without.
    """
    if amp == "off":
        return nullcontext()
    dtype = torch.bfloat16 if amp == "bf16" else torch.float16
    return torch.autocast(device.type, dtype, cache_enabled=cache)


def compile_network(net: nn.Module, graphs: bool) -> None:
    """Compile a network in place, which keeps the names of its weights.

    It is compiled for each batch size by itself: code for any size has other bits, and a resumed
    run would compile it at another step.

    Args:
        graphs: launch the kernels as CUDA graphs, whose outputs the next pass overwrites.
    """
    net.compile(dynamic=False, mode="reduce-overhead" if graphs else None)


def describe(amp: str, channels_last: bool) -> str:
    """Name a way: "bf16, channels-last"."""
    return f"{'fp32' if amp == 'off' else amp}{', channels-last' * channels_last}"


def has_amx() -> bool:
    """Whether this processor has Intel's matrix units, which take bfloat16."""
    return torch.cpu._is_amx_tile_supported()


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; others convert, which is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cpu._is_avx512_bf16_supported() or has_amx()
