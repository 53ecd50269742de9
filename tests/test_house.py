"""The house stays simple: modules import only downward, names are promised and documented."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

import jaxlbfgsb
from jaxlbfgsb.status import TABLE, Reason, scipy_statuses

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxlbfgsb"
ORDER = (  # from the ground up
    "types varying status packing kernel small chunks box memory reduced model inverse cauchy "
    "subspace direction line_search stopping state ending core recording loop lanes "
    "precision pytrees options forward_only linear_solve covariance result recent closures jaxprs "
    "tracing implicit callbacks progress watching solve minimize blocks batch multistart asktell "
    "host checks foreign scipy_bounds scipy_api jaxopt_options jaxopt_steps jaxopt_api optax_api "
    "plot"
).split()


def imports_of(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "jaxlbfgsb":
                yield from parts[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("jaxlbfgsb."))


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(m.name for m in pkgutil.iter_modules([str(PACKAGE)]))


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_only_downward(module):
    below = ORDER[: ORDER.index(module)]
    assert set(imports_of(module)) <= set(below)


def test_only_run_time_packages_are_imported():
    allowed = set("jax numpy scipy optax jaxlbfgsb jaxtyping tqdm pandas matplotlib".split())
    allowed |= sys.stdlib_module_names
    for module in ORDER:
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= allowed, module
            assert not any("._" in name for name in names), f"private names in {module}"


def test_every_reason_has_its_row():
    assert set(TABLE) == set(Reason)
    assert [int(reason) for reason in Reason] == list(range(len(Reason)))
    assert len(scipy_statuses()) == len(Reason)
    for reason, ending in TABLE.items():
        assert ending.sentence.endswith(".")
        assert ending.advice.endswith(".") or ending.scipy_status == 0 or reason == Reason.CALLBACK
        starts = ("CONVERGENCE: ",) if ending.scipy_status == 0 else ("STOP: ", "ABNORMAL: ")
        if reason not in (Reason.NOT_FINISHED, Reason.INVALID_BOUNDS, Reason.INVALID_OPTIONS):
            assert ending.scipy_message.startswith(starts)


@pytest.mark.parametrize("name", jaxlbfgsb.__all__)
def test_public_names_are_documented(name):
    thing = getattr(jaxlbfgsb, name)
    assert inspect.getdoc(thing)


def test_the_version_has_one_source():
    for page in ("CHANGELOG.md", "CITATION.cff"):
        assert jaxlbfgsb.__version__ in (ROOT / page).read_text()


@pytest.mark.parametrize(
    "module",
    [
        "asktell",
        "batch",
        "checks",
        "forward_only",
        "inverse",
        "jaxopt_api",
        "jaxopt_steps",
        "minimize",
        "multistart",
        "recording",
        "result",
        "scipy_api",
    ],
)
def test_examples_in_docstrings(module):
    results = doctest.testmod(importlib.import_module(f"jaxlbfgsb.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
