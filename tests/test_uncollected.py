"""Python collects no garbage while the solver is traced, and as before after it."""

import gc
import sys

import jax.numpy as jnp
import pytest

from jaxlbfgsb import minimize
from jaxlbfgsb.program.uncollected import uncollected


@pytest.fixture
def collector():
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("enabled", [True, False])
def test_afterwards_it_is_as_before(enabled):
    @uncollected
    def function(fails):
        assert not gc.isenabled()
        if fails:
            raise KeyError("of the function")
        return 3

    (gc.enable if enabled else gc.disable)()
    assert function(False) == 3
    assert gc.isenabled() == enabled
    with pytest.raises(KeyError):
        function(True)
    assert gc.isenabled() == enabled


@pytest.mark.usefixtures("collector")
def test_the_function_of_the_user_is_traced_with_it(monkeypatch):
    seen = {}

    def begin(*args):
        seen["solver"] = gc.isenabled()
        return original(*args)

    def fun(x):
        seen["function"] = gc.isenabled()
        return x @ x

    solving = sys.modules["jaxlbfgsb.solve"]
    original = solving.begin
    monkeypatch.setattr(solving, "begin", begin)
    gc.enable()
    minimize(fun, jnp.ones(3))
    assert seen == {"function": True, "solver": False}
