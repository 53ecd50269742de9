"""The notebooks run from top to bottom, and are stored as they ran."""

import runpy
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("default")  # those of the kernel's machinery
def test_notebooks_run(path, record_property, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    settings = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=settings).execute()
    record_property("seconds", round(time.perf_counter() - start, 1))
    warned = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not warned


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stored_as_they_ran(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert all(output.output_type != "error" for output in outputs)
    assert path.stat().st_size < 500_000


def test_pictures_of_the_pages_are_those_of_the_notebooks():
    images = ROOT / "docs" / "images"
    pictures = dict(runpy.run_path(str(images / "notebooks.py"))["pictures"]())
    assert pictures
    for name, picture in pictures.items():
        assert (images / f"{name}.png").read_bytes() == picture
