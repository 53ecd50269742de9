"""The examples run, without a warning, and their last line is an assertion that held."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.usefixtures("as_jax_starts")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_examples_run(script, capsys):
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_examples_assert_what_they_show(script):
    assert "    assert " in script.read_text()
