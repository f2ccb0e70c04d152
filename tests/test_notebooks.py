"""The notebooks run from the first cell to the last, and are committed with their outputs.

Those in Chinese are the English ones but for their text.
"""

import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CHINESE = sorted(FOLDER.glob("zh/*.ipynb"))
# Run before the first cell. No notebook finds the names of another, nor its files; and what is
# committed was trained on all 5,000 images, for minutes.
FIRST = """
%reset -f
%cd -q {folder}
"""
FEWER_IMAGES = """
import dataclasses, torchcnn.data.datasets
whole = torchcnn.data.datasets.load_data("sample")
names = "train_images", "train_labels", "test_images", "test_labels"
part = dataclasses.replace(whole, **{name: getattr(whole, name)[:64] for name in names})
torchcnn.data.datasets.load_data = lambda name, part=part: part
"""
WHOLE = ("two_frameworks", "inside")  # with all images, each in a kernel of its own


@pytest.fixture(scope="module")
def client():
    """One kernel, which imports PyTorch once for all notebooks: this takes most of their time."""
    client = NotebookClient(nbformat.v4.new_notebook(), AsyncKernelManager(), timeout=300)
    yield client
    client.kc.stop_channels()
    run_sync(client.km.shutdown_kernel)(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# The kernel's client warns of its own socket and event loop.
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::RuntimeWarning")
def test_a_notebook_runs_and_shows_what_is_committed(path, client, tmp_path):
    if path.stem[3:] == "two_frameworks":
        pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
    is_whole = path.stem[3:] in WHOLE
    committed = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    first = FIRST.format(folder=tmp_path) + FEWER_IMAGES * (not is_whole)
    run.cells.insert(0, nbformat.v4.new_code_cell(first))
    if is_whole:
        client = NotebookClient(run, timeout=300)
    client.nb = run
    client.execute()
    run.cells = run.cells[-len(committed.cells) :]
    pairs = zip(committed.cells, run.cells, strict=True)
    for old, new in (pair for pair in pairs if pair[0].cell_type == "code"):
        assert {o.output_type for o in old.outputs} == {o.output_type for o in new.outputs}
        if re.search(r"^plot_\w+\(", old.source, re.MULTILINE):
            assert any("image/png" in o.get("data", {}) for o in new.outputs), old.source
        assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in new.outputs)
        assert "def " not in old.source and "class " not in old.source  # they call the package


@pytest.mark.parametrize("path", CHINESE, ids=lambda path: path.stem)
def test_a_notebook_in_chinese_has_the_code_and_the_outputs_of_the_english_one(path):
    ours, english = (nbformat.read(p, as_version=4).cells for p in (path, FOLDER / path.name))
    for cell, twin in zip(ours, english, strict=True):
        if twin.cell_type == "code":
            assert cell == twin
        else:
            assert cell.cell_type == "markdown" and re.search("[一-龥]", cell.source)
            assert not re.search("[^\x00-\xff]\n[^\x00-\xff]", cell.source)  # it would be a space
