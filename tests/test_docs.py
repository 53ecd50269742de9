"""The code in the documents runs, and each page begins as a user does: in float32."""

import doctest
import itertools
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parent.parent
SYBIL = Sybil(parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)])
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [page for page in PAGES if "```python\n" in page.read_text()]

pytestmark = pytest.mark.usefixtures("as_jax_starts")


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: p.stem)
def test_code_runs(page):
    examples = list(SYBIL.parse(page).examples())
    assert examples
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_code_is_marked_as_such(page):
    """What is not marked is not run; what shows a prompt is Python."""
    lines = page.read_text().splitlines()
    for fence, first in itertools.pairwise(lines):
        assert not (first.startswith(">>>") and fence.startswith("```") and fence != "```python")
