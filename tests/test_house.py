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
ORDER = """
types status
xla.choice xla.indexing xla.varying xla.batching xla.packing xla.platform xla.fits xla.products
xla.columns xla.kernel xla.small xla.lanes
method.chunks method.heap method.box method.memory method.sums method.reduced method.model
method.inverse method.cauchy method.subspace method.direction method.line_search
method.stopping method.state method.ending method.decisions method.core
sight.recording
program.recent program.uncollected
loop precision pytrees options
derivatives.forward_only derivatives.linear_solve derivatives.covariance
result
program.closures program.jaxprs program.tracing
derivatives.implicit
sight.callbacks sight.progress sight.watching
solve recall iterations minimize blocks batch multistart
faces.asktell faces.host faces.checks faces.foreign faces.scipy_bounds faces.scipy_api
faces.jaxopt_options faces.jaxopt_steps faces.jaxopt_api faces.optax_api
plot
""".split()  # from the ground up


def tree_of(module):
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())


def imports_of(module):
    """What it imports of this package, as dotted names; a name of a module is not a module."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxlbfgsb"):
            inside = node.module.removeprefix("jaxlbfgsb").removeprefix(".")
            if inside in ORDER:
                yield inside
            else:  # modules of a package
                yield from (f"{inside}.{alias.name}".strip(".") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("jaxlbfgsb.")
                for a in node.names
                if a.name.startswith("jaxlbfgsb")
            )


def test_every_module_has_its_place():
    found = pkgutil.walk_packages([str(PACKAGE)], prefix="jaxlbfgsb.")
    modules = [m.name.removeprefix("jaxlbfgsb.") for m in found if not m.ispkg]
    assert sorted(ORDER) == sorted(modules)


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_only_downward(module):
    below = ORDER[: ORDER.index(module)]
    assert set(imports_of(module)) <= set(below)


def test_only_run_time_packages_are_imported():
    allowed = set("jax numpy scipy optax jaxlbfgsb jaxtyping tqdm pandas matplotlib".split())
    allowed |= sys.stdlib_module_names
    for module in ORDER:
        for node in ast.walk(tree_of(module)):
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
        "faces.asktell",
        "batch",
        "faces.checks",
        "derivatives.forward_only",
        "method.inverse",
        "faces.jaxopt_api",
        "faces.jaxopt_steps",
        "minimize",
        "multistart",
        "sight.recording",
        "result",
        "faces.scipy_api",
    ],
)
def test_examples_in_docstrings(module):
    results = doctest.testmod(importlib.import_module(f"jaxlbfgsb.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
