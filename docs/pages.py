"""The pages of the documentation, made by `mkdocs build`: nothing in them is written twice.

The texts of the repository are pages at their own paths, with the files that they link to. Each
family of networks, which is a row of docs/networks.md, has a page made from the registry, each
notebook one with its outputs, and the commands one with their flags. The reference has a page for
each room of the package, from the docstrings of its modules. A name such as `torchcnn.models.lenet`
between backticks is a link, which must lead somewhere.
"""

import html
import inspect
import io
import json
import logging
import posixpath
import re
from argparse import BooleanOptionalAction
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from importlib import import_module
from pathlib import Path
from re import Match
from textwrap import dedent, indent
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import torch
from latex2mathml.converter import convert as to_mathml
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from torch import nn

from torchcnn import cli, create_model, list_pretrained, summary, walk
from torchcnn.__main__ import COMMANDS
from torchcnn.data.augment import resize
from torchcnn.data.datasets import load_data
from torchcnn.figures.network import plot_block, plot_network
from torchcnn.models.registry import MODELS
from torchcnn.models.weights import read_pretrained

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchcnn"
NETWORKS, OVERVIEW = "docs/networks.md", "networks/index.md"
GUIDES = [f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))]
GUIDES.remove(NETWORKS)
TEXTS = ["README.md", "README.zh.md", *GUIDES, "CONTRIBUTING.md", "CHANGELOG.md"]
RESULTS = "runs/reference"
LINK = re.compile(r"\[([^]\[]*)\]\((?!\w+:|#)([^)#\s]+)[^)]*\)")
NAME = r"`(torchcnn(?:\.(?!json)\w+)+)`"  # torchcnn.json is a file
EXAMPLE = re.compile(r"(?:(?<=\n\n)|\A)(>>> .*(?:\n.+)*)")
ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|link rel=.?(?:style|pre|icon))[^>]*=.?(?:https?:)?//"
)
FORMULA = r"(\$\$?)([^$]+)\1"
CHINESE = sorted(ROOT.glob("notebooks/zh/*.ipynb"))
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb")) + CHINESE
TWINS = {"README.md": "README.zh.md"}  # a page, and the same in Chinese
TWINS |= {f"notebooks/{path.stem}.md": f"notebooks/zh/{path.stem}.md" for path in CHINESE}
TITLES = {"torchcnn": "import torchcnn", "commands": "Commands in Python", "base": "Shared"}
MOST_ROWS, MOST_LINES = 30, 110  # of a table and a file that are not folded away
log = logging.getLogger("mkdocs.hooks.pages")

Shape = tuple[int, ...]
Pages = dict[str, str | bytes]  # the contents of pages and pictures by their paths


# --- a page for each family of networks ---------------------------------------------------------


@dataclass
class Family:
    """A row of docs/networks.md, with the networks of the registry that belong to it."""

    title: str
    paper: str
    new: str
    drawn: str  # the network whose layers are shown, and the block that is drawn by itself
    notebook: str
    names: list[str]

    @property
    def page(self) -> str:
        return f"networks/{self.title.lower().replace(' ', '-')}.md"

    @property
    def network(self) -> str:
        return self.drawn.partition(".")[0]


def families() -> list[Family]:
    text = (ROOT / NETWORKS).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| `(.+)` \| (.+) \|$", text, re.MULTILINE)
    found = [Family(*row, []) for row in rows]
    homes = {source(family.network): family for family in found}
    homes |= {family.network: family for family in found}  # where two share a file
    for name in MODELS:
        home = homes.get(name) or homes.get(source(name))
        if not home:
            raise PluginError(f"{NETWORKS} has no row for {name}")
        home.names.append(name)
    return found


def source(name: str) -> str:
    """Return the path of the file that a network is in."""
    return MODELS[name].builder.__module__.replace(".", "/") + ".py"


def network_pages() -> Pages:
    """Return the page of each family and of all of them, with their pictures."""
    text = (ROOT / NETWORKS).read_text(encoding="utf-8")
    overview, pages = [text.partition("\n| ")[0]], Pages()
    for family in families():
        drawing = add_family(pages, family)
        page = posixpath.basename(family.page)
        overview += [f"## [{family.title}]({page})", family.new, drawing]
    pages[OVERVIEW] = "\n\n".join(overview)
    return pages


def add_family(pages: Pages, family: Family) -> str:
    """Add the page of a family and its pictures; return the first of these in Markdown."""
    name, file = family.network, source(family.network)
    shape, code = MODELS[name].input, (ROOT / file).read_text(encoding="utf-8")
    with torch.device("meta"):  # which computes nothing
        net = create_model(name).eval()
    layers = summary(net, shape)
    first = whole = diagram(pages, name, plot_network(net, shape))
    if block := family.drawn.partition(".")[2]:
        first = diagram(pages, family.drawn, plot_block(*block_and_input(net, block, shape)))
    head = [f.name.replace("_", " ").replace("macs", "MACs") for f in fields(layers[0])]
    rows = table(head, [row.cells() for row in layers])
    page = [
        f"# {family.title}",
        f'<p class="lead" markdown>{family.new}</p>',
        f"Paper: {family.paper} · Notebook: {family.notebook} · Code: [`{file}`](../{file})",
        "## Structure",
        first,
        f"`{family.drawn}`, with the shape of every output.",
        folded(f"The whole of {name}", whole) if block else "",
    ]
    if trained := [n for n in family.names if n in list_pretrained()]:
        pages[f"networks/{trained[0]}.html"] = walk_page(trained[0])
        page += [
            "## Walk through it",
            f"`{trained[0]}`{options_of(trained[0])}, as it was trained on Fashion-MNIST: every "
            f"number, what it sees, and how it is computed ([alone]({trained[0]}.html)).",
            f'<iframe class="walk" src="../{trained[0]}.html" title="{trained[0]}"></iframe>',
        ]
    page += [
        "## Networks",
        network_table(family),
        f"## Layers of {name}",
        f"For an image of {'×'.join(map(str, shape))}; receptive fields are in its pixels.",
        folded(f"{len(layers)} layers", rows, len(layers) <= MOST_ROWS),
        *measured(family),
        "## Code",
        folded(file, f'``````python linenums="1"\n{code}``````', code.count("\n") <= MOST_LINES),
    ]
    pages[family.page] = "\n\n".join(page)
    return first


def options_of(name: str) -> str:
    """Return the options of the weights of a network of the package, such as NiN's width."""
    options = read_pretrained(name)[0].options
    return "".join(f", with `{option}={value}`" for option, value in options.items())


def walk_page(name: str) -> str:
    """Return a page that walks through a network of the package, with the weights that it has."""
    net = create_model(name, pretrained=True).eval()
    data = load_data("sample")
    images = resize(data.test_images[:20], net.spec.input_size)
    answers = [int(net(net.spec.prepare(image)).argmax()) for image in images]
    right = [answer == label for answer, label in zip(answers, data.test_labels, strict=False)]
    first = right.index(True)
    return walk(net, images[first], title=data.classes[answers[first]]).html


def block_and_input(net: nn.Module, name: str, shape: Shape) -> tuple[nn.Module, Shape]:
    """Return a block of a network and the shape of its input for an image."""
    block, shapes = net.get_submodule(name), []
    block.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[1:]))
    net(torch.empty(1, *shape, device="meta"))
    return block, tuple(shapes[0])


def diagram(pages: Pages, name: str, figure: Figure) -> str:
    """Add a picture to the pages, and return it in Markdown: a wide one scrolls."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True)
    pages[f"networks/{name}.svg"] = file.getvalue()
    least = f'style="min-width: {66 * figure.get_figwidth():.0f}px"'  # else letters are too small
    return f'<div class="diagram" markdown>![Layers of {name}]({name}.svg){{{least}}}</div>'


def network_table(family: Family) -> str:
    rows = []
    for name in family.names:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in create_model(name).parameters())
        model = MODELS[name]
        rows.append([f"`{name}`", "×".join(map(str, model.input)), f"{parameters:,}", model.new])
    return table(["name", "input", "parameters", "description"], rows)


def measured(family: Family) -> Iterator[str]:
    """Yield what the family's networks reached on Fashion-MNIST, and the curves of a kept run."""
    rows = []
    for row in json.loads((ROOT / RESULTS / "accuracy.json").read_text()):
        if row["arch"] in family.names:
            accuracy = f"{row['mean']:.4f}" + (f" ± {row['std']:.4f}" if row["std"] else "")
            size, parameters = "×".join(map(str, row["input"])), f"{row['parameters']:,}"
            numbers = [size, parameters, str(row["epochs"]), str(row["n"]), accuracy]
            rows.append([f"`{row['arch']}`", row["recipe"], *numbers])
    if rows:
        yield "## Accuracy"
        yield (
            "On the 10,000 test images of Fashion-MNIST, after training on the 60,000 others: mean "
            "± standard deviation over n seeds, of networks with this input and these parameters. "
            f"[All results](../{RESULTS}/README.md), with how they were measured."
        )
        yield table(["network", "recipe", "input", "parameters", "epochs", "n", "accuracy"], rows)
    run = json.loads((ROOT / RESULTS / "config.json").read_text())
    if run["arch"] in family.names:
        yield f"A run of `{run['arch']}` by `--recipe {run['recipe']}` for {run['epochs']} epochs:"
        yield f"![Loss and accuracy by epoch](../{RESULTS}/curves.png)"
        yield f"![Confusion matrix](../{RESULTS}/confusion.png){{width=560}}"


# --- Markdown -----------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown, in which columns of numbers are at the right."""
    numbers = [all(re.match(r"\d|all|$", row[i]) for row in rows) for i in range(len(head))]
    lines = [head, ["---:" if number else "---" for number in numbers], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def folded(title: str, text: str, is_open: bool = False) -> str:
    """Return text that a click on its title unfolds."""
    return f'{"???+" if is_open else "???"} folded "{title}"\n\n' + indent(text, "    ")


def plain(text: str) -> str:
    """Return Markdown that shows a text as it is, with its flags as code."""
    text = re.sub(r"([*_|\[])", r"\\\1", html.escape(text, quote=False))
    return re.sub(r"(?<!\S)(--[a-z][a-z-]*)", r"`\1`", text)


# --- notebooks ----------------------------------------------------------------------------------


def notebook_pages() -> Pages:
    """Return a page for each notebook, as it was executed, and the pictures in its outputs."""
    pages: Pages = {}
    for path in NOTEBOOKS:
        folder = path.parent.relative_to(ROOT).as_posix()
        resources = {"output_files_dir": f"{path.stem}_files"}
        text, resources = MarkdownExporter().from_filename(str(path), resources)
        title, _, rest = text.strip().partition("\n")
        link = f'<a href="../{path.name}" download>{path.name}</a>'
        rest = rest.replace("![png]", "![Output]")
        pages[f"{folder}/{path.stem}.md"] = f"{title}\n\n{link}\n\n{rest}"
        pages |= {f"{folder}/{name}": picture for name, picture in resources["outputs"].items()}
    return pages


# --- commands and reference ---------------------------------------------------------------------


def commands_page() -> str:
    page = [
        "# Commands",
        "What a flag does, its value if it is not given, and what may be given. "
        "From Python the commands are [functions](commands.md).",
    ]
    for name in COMMANDS:
        module = import_module(f"torchcnn.{name}")
        if hasattr(module, "__path__"):  # a room with a command
            module = import_module(f"torchcnn.{name}.__main__")
        about, _, examples = inspect.cleandoc(module.Config.__doc__).partition("\nExamples:\n")
        rows = []
        for f in fields(module.Config):
            if "group" in f.metadata:  # the first flag of one
                rows.append([f"**{f.metadata['group']}**", "", "", ""])
            rows.append(flag_row(f))
        page += [f"## {name}", f"`python -m torchcnn.{name}`", plain(about)]
        page += [f"```bash\n{dedent(examples)}\n```"] * bool(examples)
        flags = table(["flag", "meaning", "default", "allowed"], rows)
        page.append(f'<div class="flags" markdown>\n\n{flags}\n\n</div>')
    return "\n\n".join(page)


def flag_row(f: Field) -> list[str]:
    """Return the row of a flag: its name, its meaning, its default and what it takes."""
    meaning, _, default = f.metadata["help"].partition(" (default: ")
    default, _, rest = default.partition(")")
    if f.metadata.get("required"):
        default = "required"
    elif not default and f.default not in (MISSING, "", ()) and f.default is not False:
        default = f"`{f.default}`"
    positional, action = f.metadata.get("positional"), f.metadata.get("action")
    name = f"`{f.metadata.get('metavar', f.name) if positional else cli.flag(f.name)}`"
    allowed = None
    if action is BooleanOptionalAction:
        name += f"<br>`{cli.flag(f'no_{f.name}')}`"
    elif action != "store_true":
        try:
            cli.read_value(f, "?")
        except ValueError as error:
            allowed = re.search(r"allowed (?:is|are) (.*)", str(error))
    return [name, plain(meaning + rest), default, plain(allowed[1] if allowed else "")]


def rooms() -> dict[str, list[str]]:
    """Return the modules of each page of the reference."""
    pages = {"torchcnn": ["torchcnn"]}
    for room in sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")):
        name, modules = f"torchcnn.{room}", sorted((PACKAGE / room).glob("[!_]*.py"))
        pages[name] = [name, *(f"{name}.{path.stem}" for path in modules)]
    files = sorted(PACKAGE.glob("[!_]*.py"))
    for page, commands in (("commands", True), ("base", False)):
        found = [path.stem for path in files if ("def main(" in path.read_text()) == commands]
        pages[page] = [f"torchcnn.{name}" for name in found]
    return pages


def reference_pages() -> Pages:
    pages: Pages = {"reference/flags.md": commands_page()}
    for name, modules in rooms().items():
        page = [f"# {TITLES.get(name, name)}"]
        for module in modules:
            page.append(f"::: {module}")
            if module == name != "torchcnn":  # its names are shown in its modules
                page.append("    options: {members: false, show_root_heading: false}")
        pages[f"reference/{name}.md"] = "\n".join(page)
    return pages


class References(InlineProcessor):
    """Make links of names between backticks."""

    def handleMatch(self, m: Match[str], data: str) -> tuple[Element, int, int]:
        reference = Element("autoref", identifier=m[1])
        SubElement(reference, "code").text = m[1]
        return reference, m.start(), m.end()


class Mathematics(InlineProcessor):
    """Make MathML of formulas between dollars, which browsers show without any script."""

    def handleMatch(self, m: Match[str], data: str) -> tuple[str, int, int]:
        formula = to_mathml(m[2], display="block" if m[1] == "$$" else "inline")
        return self.md.htmlStash.store(formula), m.start(), m.end()


class Examples(Preprocessor):
    """Make code of the examples in docstrings, which begin with >>> after an empty line."""

    def run(self, lines: list[str]) -> list[str]:
        return EXAMPLE.sub(r"```pycon\n\1\n```", "\n".join(lines)).split("\n")


class Additions(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(References(NAME, md), "names", 200)  # before backticks
        md.inlinePatterns.register(Mathematics(FORMULA, md), "formulas", 185)  # after them
        md.preprocessors.register(Examples(md), "examples", 100)  # before fences


# --- what MkDocs calls --------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> None:
    config.markdown_extensions.append(Additions())
    notebooks = [p.relative_to(ROOT).with_suffix(".md").as_posix() for p in NOTEBOOKS]
    english = [page for page in notebooks if page not in TWINS.values()]
    chinese = [page for page in notebooks if page in TWINS.values()]
    reference = [{TITLES.get(name, name): f"reference/{name}.md"} for name in rooms()]
    config.nav = [
        {"Home": "README.md"},
        {"Networks": [{"Overview": OVERVIEW}, *({f.title: f.page} for f in families())]},
        {"Notebooks": [*english, *([{"中文": chinese}] * bool(chinese))]},
        {
            "Guides": [
                *GUIDES,
                {"Results": f"{RESULTS}/README.md"},
                {"Speed": f"{RESULTS}/speed.md"},
            ]
        },
        {"Reference": ["reference/flags.md", *reference]},
        {"Project": ["CONTRIBUTING.md", "CHANGELOG.md"]},
    ]
    # Griffe, which reads the modules, cannot know the names in a table.
    logging.getLogger("mkdocs.plugins.griffe").addFilter(
        lambda record: "torchcnn.models.__all__: MODELS" not in record.getMessage()
    )


def on_files(files: Files, config: MkDocsConfig) -> None:
    for file in list(files):
        if file.src_dir == config.docs_dir and not file.src_uri.endswith(".css"):
            files.remove(file)
    pages = reference_pages() | notebook_pages() | network_pages()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for name in linked(pages):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))


def linked(pages: Pages) -> list[str]:
    """Return texts and notebooks of the repository, and all files to which these and pages link."""
    found = [*TEXTS, *(path.relative_to(ROOT).as_posix() for path in NOTEBOOKS)]

    def follow(name: str, text: str) -> None:
        for _, link in LINK.findall(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
            if path not in found and (ROOT / path).is_file():  # else the build says it is broken
                found.append(path)

    for name, content in pages.items():
        if isinstance(content, str):
            follow(name, content)
    for name in found:  # which grows
        if name.endswith(".md"):
            follow(name, (ROOT / name).read_text(encoding="utf-8"))
    return found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to networks and notebooks to their pages; of links to folders leave the text."""
    uri = page.file.src_uri
    folder = posixpath.dirname(uri)
    homes = {f"`{name}`": family.page for family in families() for name in family.names}

    def link(m: Match[str]) -> str:
        if m[1] in homes and m[2].endswith(".py"):
            return f"[{m[1]}]({posixpath.relpath(homes[m[1]], folder or '.')})"
        if (ROOT / folder / m[2]).is_dir():
            return m[1]
        return m[0].replace(".ipynb", ".md")

    return LINK.sub(link, markdown)


def on_page_context(context: dict, page: Page, config: MkDocsConfig, nav: Any) -> None:
    """Let the language switch lead to the page in the other language, or else to the README."""
    uri, urls = page.file.src_uri, {file.src_uri: file.url for file in context["pages"]}
    is_chinese = uri in TWINS.values()
    pair = next((pair for pair in TWINS.items() if uri in pair), (uri, "README.zh.md"))
    config.theme["language"] = "zh" if is_chinese else "en"
    config.extra["alternate"] = [
        {"name": name, "link": urls[twin], "lang": lang}
        for twin, name, lang in zip(pair, ("English", "中文"), ("en", "zh"), strict=True)
    ]


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    if found := ELSEWHERE.search(output):
        log.warning(f"{page.file.src_uri} loads from another host: {found[0]}")
