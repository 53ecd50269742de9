"""Both precisions, and array annotations that are checked."""

import contextlib
import functools
import os
import tempfile

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # SciPy's small solves are slow on more
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share what one of them compiled
    CACHE = tempfile.TemporaryDirectory(prefix="jaxlbfgsb-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)  # every dtype in the tests is explicit
# Before the package is first imported. The front doors check what users give by themselves.
CHECKED = ["jaxlbfgsb.method", "jaxlbfgsb.xla.small", "jaxlbfgsb.loop"]
install_import_hook(CHECKED, "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """What one module compiled would fill the memory of a worker that runs them all."""
    yield
    jax.clear_caches()


@pytest.fixture
def as_jax_starts():
    """In float32."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@contextlib.contextmanager
def patched(*patches):
    """Nothing that was traced before or after is used."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in patches:
            patch.setattr(name, value)
        yield
    jax.clear_caches()


TWO_PLATFORMS = ("jaxlbfgsb.xla.platform.backends", lambda: {"cpu": None, "other": None})
THE_OTHER = ("jax.lax.platform_dependent", lambda *args, default, **_others: default(*args))


@pytest.fixture
def beside_an_accelerator():
    """Programs are traced for all platforms, as in a process that has an accelerator."""
    with patched(TWO_PLATFORMS):
        yield


@pytest.fixture
def on_an_accelerator():
    """A context in which what an accelerator gets is compiled for the backend that there is."""
    return functools.partial(patched, TWO_PLATFORMS, THE_OTHER)


@pytest.fixture
def as_on_an_accelerator(on_an_accelerator):
    with on_an_accelerator():
        yield


@pytest.fixture(scope="module", params=["cpu", "accelerator"])
def either_backend(request):
    """All tests of a module, which must ask for it, run twice, then `as_on_an_accelerator`."""
    with patched(TWO_PLATFORMS, THE_OTHER) if request.param == "accelerator" else patched():
        yield
