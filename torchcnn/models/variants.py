"""What builders share: a check of the size, and variants that differ only in their defaults."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


def check_size(name: str, least: int, input_size: int) -> None:
    """Refuse images of fewer than `least` pixels a side."""
    if input_size < least:
        raise ValueError(
            f"{name} takes images of at least {least} pixels, got input_size={input_size}"
        )


def variant(
    builder: Callable[..., nn.Sequential], name: str, title: str, *args: Any, **defaults: Any
) -> Callable[..., nn.Sequential]:
    """Return a function that calls `builder` with the positional `args` and with new `defaults`.

    Unlike a `functools.partial`, it has a name, a docstring that begins with `title`, and a
    signature of its own, so that `help` describes it. The caller may override the `defaults`, but
    not the `args`, which are not parameters of the new function.
    """
    signature = inspect.signature(builder)
    parameters = [
        parameter.replace(default=defaults.get(parameter.name, parameter.default))
        for parameter in list(signature.parameters.values())[len(args) :]
    ]
    signature = signature.replace(parameters=parameters)

    def build(*given: Any, **options: Any) -> nn.Sequential:
        return builder(*args, **(defaults | signature.bind(*given, **options).arguments))

    build.__name__ = build.__qualname__ = name
    build.__module__ = builder.__module__
    build.__doc__ = (
        f"{title}: (n, in_channels, h, w) -> (n, num_classes).\n\n"
        f"Other options are those of `{builder.__name__}`."
    )
    build.__signature__ = signature  # type: ignore[attr-defined]
    return build
