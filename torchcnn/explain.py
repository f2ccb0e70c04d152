"""A look inside a trained network: `python -m torchcnn.explain --checkpoint RUN FILES… --out D`."""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.decode import find_pictures, read_image
from torchcnn.figures.draw import save_figure
from torchcnn.figures.inside import plot_attention, plot_features, plot_filters
from torchcnn.figures.walk import LANGUAGES, walk
from torchcnn.files import check_writable
from torchcnn.models.attention import (
    CAM,
    GRAD_CAM,
    GRADIENT,
    Attention,
    attention,
    first_weights,
    stage_outputs,
)
from torchcnn.pictures import PicturesAndNetwork, try_each
from torchcnn.run.tensorboard import writing_events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "python -m torchcnn.explain"
SAID = {
    CAM: "class activation map: what each place adds to the logit",
    GRAD_CAM: "Grad-CAM: where the last feature maps speak for the class",
    GRADIENT: "gradient × input, since the network has no convolutions",
}


@dataclass(kw_only=True, frozen=True)
class Config(PicturesAndNetwork):
    """Draw what a network looks at.

    The folder gets filters.png with the weights of the first layer, and for each picture
    NAME-features.png with the feature maps of each stage, and NAME-attention.png with the part of
    the picture that speaks for its class: the class activation map (arXiv:1512.04150) of networks
    that end in a global mean, and Grad-CAM (arXiv:1610.02391) of other ones.
    """

    out: str = option("the folder to draw into; it is made if need be", default="", type=cli.path)
    html: str = option(
        "in place of figures: write a page with every number of the network for one picture, what "
        "it sees, and how it is computed; a browser opens this .html without a connection",
        default="",
        type=cli.path,
    )
    language: str = option("of the page", default="en", choices=LANGUAGES)
    target: str = option(
        "the class whose evidence is shown (the most probable one if not given)",
        default="",
        metavar="CLASS",
    )
    tensorboard: bool = option(
        "write the figures as images of TensorBoard as well", default=False, action="store_true"
    )


class Look(NamedTuple):
    """A picture, and where the network looks in it."""

    file: str
    name: str  # with which the names of its figures begin
    image: Tensor  # (c, size, size) uint8
    attention: Attention


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        explain(Config(**cli.parse(Config, PROG, argv)))


def explain(config: Config) -> None:
    """Look at all pictures that can be read; those that cannot are an error at the end."""
    if bool(config.out) == bool(config.html):
        raise ValueError("required: --out for a folder of figures, or --html for a page")
    if config.html:
        return write_page(config)
    out = Path(config.out).expanduser()
    check_writable(out)
    net, note = config.open_network()
    target = find_class(net.spec.classes, config.target)
    files = find_pictures(config.files)
    names = zip(files, figure_names(files), strict=True)
    looks, unread = try_each(names, lambda pair: look(net, pair[0], pair[1], target))
    if not looks:
        cli.refuse(PROG, unread)
    figures = plan(net, looks)
    pictures = {Path(file).expanduser().resolve() for file in files}
    if hit := [name for name in figures if (out / name).resolve() in pictures]:
        raise ValueError(f"--out {out}: {hit[0]} is one of the pictures, and would be overwritten")
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), writing_events(out, config.tensorboard) as add_event:
        warnings.filterwarnings("ignore", r"Glyph \d+ ")  # of characters that no font has
        for name, draw in figures.items():
            figure = draw()
            save_figure(figure, out / name)
            add_event(name.removesuffix(".png"), figure)
            print(f"{out / name} is drawn")
    cli.refuse(PROG, unread)
    print(f"by {note}", file=sys.stderr)


def write_page(config: Config) -> None:
    """Write the page on which one walks through the network, for one picture."""
    page, files = Path(config.html).expanduser(), find_pictures(config.files)
    if page.suffix != ".html" or len(files) != 1:
        raise ValueError(f"--html takes one .html and one picture, got {page} and {len(files)}")
    check_writable(page.parent, "--html")
    net, note = config.open_network()
    spec, path = net.spec, Path(files[0]).expanduser()
    image = read_image(path, spec.in_channels, spec.input_size, spec.resize)
    walk(net, image, title=path.name, language=config.language).save(page)
    print(f"{page} is written: by {note}")


def find_class(classes: Sequence[str], name: str) -> int | None:
    """Return the number of a class, or None, which is the most probable one, if none is named.

    Raises:
        ValueError: there is no such class.
    """
    if not name:
        return None
    if name not in classes:
        raise ValueError(f"--target: got {name}, allowed are {', '.join(classes)}")
    return classes.index(name)


def figure_names(files: Sequence[str]) -> list[str]:
    """Return a name for each picture's figures: its own, with a number if another one has it."""
    names: dict[str, str] = {}  # by what a file system that ignores case sees of them
    for file in files:
        stem = name = Path(file).stem
        number = 1
        while name.casefold() in names:
            number += 1
            name = f"{stem}-{number}"
        names[name.casefold()] = name
    return list(names.values())


def look(net: Any, file: str, name: str, target: int | None) -> Look:
    """Read a picture, and find out where the network looks in it.

    Raises:
        ValueError, FileNotFoundError: it cannot be read, or the network returns no finite numbers.
    """
    spec, path = net.spec, Path(file).expanduser()
    image = read_image(path, spec.in_channels, spec.input_size, spec.resize)
    found = attention(net, spec.prepare(image), target)
    if not (found.logits.isfinite().all() and found.heat.isfinite().all()):
        raise ValueError(f"the network computes NaN or infinity for {file}")
    return Look(file, name, image, found)


def plan(net: Any, looks: Sequence[Look]) -> dict[str, Callable[[], "Figure"]]:
    """Return what draws each figure, by its file's name; say which ones there cannot be."""
    figures: dict[str, Callable[[], Figure]] = {}
    weights = first_weights(net, net.spec.shape)
    if weights is None:
        print("note: no filters.png, since no layer's weights are images", file=sys.stderr)
    else:
        figures["filters.png"] = partial(plot_filters, weights, "weights of the first layer")
    has_maps = bool(stage_outputs(net, net.spec.prepare(looks[0].image)))
    if not has_maps:
        print("note: no features.png, since no stage returns feature maps", file=sys.stderr)
    for seen in looks:
        if has_maps:
            figures[f"{seen.name}-features.png"] = partial(draw_features, net, seen)
        figures[f"{seen.name}-attention.png"] = partial(draw_attention, net, seen)
    return figures


def draw_features(net: Any, seen: Look) -> "Figure":
    """Draw a picture's feature maps; they are computed only now, because they are large."""
    outputs = stage_outputs(net, net.spec.prepare(seen.image))
    return plot_features(outputs, Path(seen.file).name)


def draw_attention(net: Any, seen: Look) -> "Figure":
    """Draw where the network looks in a picture, under the class and its probability."""
    found = seen.attention
    probability = float(found.logits.softmax(0)[found.target])
    answer = f"{Path(seen.file).name}: {net.spec.classes[found.target]} {probability:.1%}"
    nothing = "" if found.heat.any() else " (0 everywhere)"
    return plot_attention(seen.image, found.heat, f"{answer}\n{SAID[found.method]}{nothing}")


if __name__ == "__main__":
    main()
