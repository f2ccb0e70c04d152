"""The notebooks run from the first cell to the last, and are committed with their outputs.

Those in Chinese are the English ones but for their text.
"""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CHINESE = sorted(FOLDER.glob("zh/*.ipynb"))
# Run before the first cell: what is committed was trained on all 5,000 images, for minutes.
FEWER_IMAGES = """
import dataclasses, torchcnn.data.datasets
whole = torchcnn.data.datasets.load_data("sample")
names = "train_images", "train_labels", "test_images", "test_labels"
part = dataclasses.replace(whole, **{name: getattr(whole, name)[:64] for name in names})
torchcnn.data.datasets.load_data = lambda name: part
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# The kernel's client warns of its own socket and event loop.
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::RuntimeWarning")
def test_a_notebook_runs_and_shows_what_is_committed(path, tmp_path):
    if path.stem[3:] == "two_frameworks":
        pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
    committed = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    if path.stem[3:] not in ("two_frameworks", "inside"):
        run.cells.insert(0, nbformat.v4.new_code_cell(FEWER_IMAGES))
    NotebookClient(run, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
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
