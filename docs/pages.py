"""The pages of the documentation, made while it is built: one for each room of the package.

The texts of the repository are taken as they are, with the files that they link to.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchcnn"
TEXTS = {"Home": "README.md", "Contributing": "CONTRIBUTING.md", "Changelog": "CHANGELOG.md"}
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")


def rooms() -> dict[str, list[str]]:
    """The modules of each page of the reference."""
    pages = {"torchcnn": ["torchcnn"]}
    commands = [f"torchcnn.{path.stem}" for path in PACKAGE.glob("[!_]*.py")]
    for room in sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")):
        modules = [f"torchcnn.{room}.{path.stem}" for path in (PACKAGE / room).glob("[!_]*.py")]
        pages[f"torchcnn.{room}"] = [f"torchcnn.{room}", *sorted(modules)]
    return pages | {"commands": sorted(commands)}


def on_config(config: MkDocsConfig) -> None:
    reference = [{name: f"reference/{name}.md"} for name in rooms()]
    texts = [{title: name} for title, name in TEXTS.items()]
    config.nav = [texts[0], {"Reference": reference}, *texts[1:]]


def on_files(files: Files, config: MkDocsConfig) -> None:
    for name, modules in rooms().items():
        page = f"# {name}\n"
        for module in modules:
            package = module == name and name != "torchcnn"  # its names are shown in its modules
            page += f"\n::: {module}\n"
            page += "    options: {members: false, show_root_heading: false}\n" if package else ""
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    linked = {link for text in TEXTS.values() for link in LINK.findall((ROOT / text).read_text())}
    for name in sorted({*TEXTS.values(), *linked}):
        if (ROOT / name).is_file():  # otherwise the link is broken, and the build says so
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
