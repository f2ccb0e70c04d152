"""The pages of the documentation, made by `mkdocs build`: nothing in them is written twice.

The texts of the repository are pages at their own paths, with the files that they link to. The
reference has a page for each room of the package, from the docstrings of its modules. A name such
as `torchcnn.models.lenet` between backticks is a link, which must lead somewhere.
"""

import logging
import posixpath
import re
from pathlib import Path
from re import Match
from xml.etree.ElementTree import Element, SubElement

from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchcnn"
GUIDES = [f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))]
READMES = [path.name for path in sorted(ROOT.glob("README*.md"))]
TEXTS = [*READMES, *GUIDES, "CONTRIBUTING.md", "CHANGELOG.md"]
LINK = re.compile(r"\[([^]\[]*)\]\((?!\w+:|#)([^)#\s]+)[^)]*\)")
NAME = r"`(torchcnn(?:\.(?!json)\w+)+)`"  # torchcnn.json is a file
EXAMPLE = re.compile(r"(?:(?<=\n\n)|\A)(>>> .*(?:\n.+)*)")


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


def with_links(texts: list[str]) -> list[str]:
    """Return the paths of the texts and of all files of the repository that they link to."""
    found = list(texts)
    for text in found:  # which grows
        markdown = (ROOT / text).read_text(encoding="utf-8") if text.endswith(".md") else ""
        for _, link in LINK.findall(markdown):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(text), link))
            if path not in found and (ROOT / path).is_file():  # else the build says it is broken
                found.append(path)
    return found


class References(InlineProcessor):
    """Make links of names between backticks."""

    def handleMatch(self, m: Match[str], data: str) -> tuple[Element, int, int]:
        reference = Element("autoref", identifier=m[1])
        SubElement(reference, "code").text = m[1]
        return reference, m.start(), m.end()


class Examples(Preprocessor):
    """Make code of the examples in docstrings, which begin with >>> after an empty line."""

    def run(self, lines: list[str]) -> list[str]:
        return EXAMPLE.sub(r"```pycon\n\1\n```", "\n".join(lines)).split("\n")


class Docstrings(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(References(NAME, md), "names", 200)  # before backticks
        md.preprocessors.register(Examples(md), "examples", 100)  # before fences


def on_config(config: MkDocsConfig) -> None:
    config.markdown_extensions.append(Docstrings())
    reference = [{name: f"reference/{name}.md"} for name in rooms()]
    first = len(READMES) + len(GUIDES)
    config.nav = [{"Home": READMES[0]}, *TEXTS[1:first], {"Reference": reference}, *TEXTS[first:]]
    # Griffe, which reads the modules, cannot know the names in a table.
    logging.getLogger("mkdocs.plugins.griffe").addFilter(
        lambda record: "torchcnn.models.__all__: MODELS" not in record.getMessage()
    )


def on_files(files: Files, config: MkDocsConfig) -> None:
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for name, modules in rooms().items():
        page = [f"# {name}"]
        for module in modules:
            page.append(f"::: {module}")
            if module == name != "torchcnn":  # its names are shown in its modules
                page.append("    options: {members: false, show_root_heading: false}")
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page)))
    for name in with_links(TEXTS):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the text of links to folders, which have no page."""
    folder = (ROOT / page.file.src_uri).parent
    return LINK.sub(lambda m: m[1] if (folder / m[2]).is_dir() else m[0], markdown)
