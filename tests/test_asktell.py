"""Ask and tell: the same run as the compiled one, told from outside, saved and resumed."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import AskTell, Reason, minimize


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


evaluate = jax.jit(jax.value_and_grad(rosenbrock))
BOX = (np.array([-2.0, -2.0, -2.0, -2.0]), np.array([0.5, 2.0, 0.8, 2.0]))


def run(solver, steps=10_000):
    points = []
    while not solver.done and len(points) < steps:
        points.append(solver.ask())
        solver.tell(*evaluate(points[-1]))
    return points


def test_it_is_the_run_of_minimize(dtype):
    x0 = np.array([-1.2, 1.0, -0.5, 0.3], dtype)
    solver = AskTell(x0, bounds=BOX)
    points = run(solver)
    told, compiled = solver.result(), minimize(rosenbrock, x0, bounds=BOX)
    assert all(point.dtype == dtype for point in points)
    assert len(points) == told.nfev
    assert told.x.dtype == dtype
    assert told.success
    assert compiled.success
    if dtype == np.float64:  # other rounding: the two are compiled as different programs
        assert (told.nit, told.nfev, told.reason) == (compiled.nit, compiled.nfev, compiled.reason)
    np.testing.assert_allclose(told.x, compiled.x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(told.active, compiled.active)


def test_shape_of_x0_and_fresh_arrays():
    solver = AskTell(np.zeros((2, 3)), bounds=(None, 0.5))
    first, again = solver.ask(), solver.ask()
    assert first.shape == (2, 3)
    first[:] = 7
    assert not again.any()
    while not solver.done:
        x = solver.ask()
        kept = x.copy()
        solver.tell(np.sum((x - 1) ** 2), 2 * (x - 1))
        np.testing.assert_array_equal(x, kept)
    assert solver.result().x.shape == (2, 3)
    assert (solver.result().active == 1).all()
    solver.result().x[:] = 0  # the caller's own


def test_double_precision_whatever_the_setting():
    with jax.enable_x64(False):
        solver = AskTell(np.array([3.0, -1.0]), bounds=(0.1, None), gtol=1e-12, ftol=0)
        while not solver.done:
            x = solver.ask()
            assert x.dtype == np.float64
            solver.tell(np.sum((x - 1 / 3) ** 2), 2 * (x - 1 / 3))
        np.testing.assert_allclose(solver.result().x, 1 / 3, rtol=1e-12)


def test_result_before_the_end_and_tell_after_it():
    solver = AskTell(np.ones(2))
    assert not solver.done
    assert solver.result().reason == Reason.NOT_FINISHED
    assert not solver.result().success
    solver.tell(1.0, np.zeros(2))
    assert solver.done
    assert solver.result().success
    with pytest.raises(RuntimeError, match="has ended"):
        solver.tell(1.0, np.zeros(2))


def test_evaluations_are_counted_as_told():
    solver = AskTell(np.ones(2), maxfun=9)
    solver.tell(2.0, np.full(2, 2.0), evaluations=3)
    assert solver.result().nfev == 3
    x = solver.ask()
    solver.tell(x @ x, 2 * x, evaluations=8)
    assert solver.result().reason in (Reason.MAXFUN, Reason.PROJECTED_GRADIENT)


def test_stop():
    solver = AskTell(np.array([-1.2, 1.0]))
    run(solver, steps=4)
    solver.stop()
    assert solver.done
    assert solver.result().reason == Reason.CALLBACK
    np.testing.assert_array_equal(solver.iterate()[0], solver.result().x)


@pytest.mark.parametrize(
    ("told", "error", "text"),
    [
        ((np.ones(2), np.ones(2)), ValueError, "value must be a scalar"),
        ((1.0, np.ones(3)), ValueError, r"shape of x0, \(2,\)"),
        ((1.0, np.ones(2) * 1j), TypeError, "complex"),
    ],
)
def test_errors_teach(told, error, text):
    with pytest.raises(error, match=text):
        AskTell(np.ones(2)).tell(*told)
    with pytest.raises(TypeError, match="one array"):
        AskTell({"a": np.ones(2)})


RESUME = """
import sys
import jax
import numpy as np
from jaxlbfgsb import AskTell
solver = AskTell.load(sys.argv[1])
while not solver.done:
    x = solver.ask()
    solver.tell(np.sum(100 * (x[1:] - x[:-1]**2)**2 + (1 - x[:-1])**2), np.array([
        -400 * x[0] * (x[1] - x[0]**2) - 2 * (1 - x[0]), 200 * (x[1] - x[0]**2)]))
solver.save(sys.argv[2])
"""


@pytest.mark.parametrize(("bounds", "dtype"), [(None, np.float32), ((-2.0, 0.7), np.float64)])
def test_saved_and_resumed_in_a_new_process_to_the_same_bits(tmp_path, bounds, dtype):
    def numpy_rosenbrock(x):
        f = np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        slope = -400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0])
        return f, np.array([slope, 200 * (x[1] - x[0] ** 2)])

    def new():
        return AskTell(np.array([-1.2, 1.0], dtype), bounds=bounds, maxcor=3, maxiter=12)

    straight, broken = new(), new()
    for step in range(1000):
        if straight.done:
            break
        straight.tell(*numpy_rosenbrock(straight.ask()))
        if step < 7:
            broken.tell(*numpy_rosenbrock(broken.ask()))
    saved, finished = tmp_path / "saved.npz", tmp_path / "finished.npz"
    broken.save(saved)
    with np.load(saved, allow_pickle=False) as arrays:
        assert all(array.dtype.kind in "fib" for array in arrays.values())
    subprocess.run([sys.executable, "-c", RESUME, str(saved), str(finished)], check=True)
    ours, theirs = straight.result(), AskTell.load(finished).result()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bounds", [None, (-1.0, 0.6)], ids=["free", "bounded"])
@pytest.mark.parametrize("n", [1, 100, 600])
def test_a_run_of_any_size_is_resumed(n, bounds, tmp_path):
    """The memory has more than one form, and in many variables sums beside it."""
    target, weights = np.linspace(0, 1, n), np.geomspace(1, 30, n)

    def pull(x):
        return weights @ (x - target) ** 2 / 2, weights * (x - target)

    def told(run, steps=1000):
        while not run.done and steps:
            run.tell(*pull(run.ask()))
            steps -= 1
        return run

    straight, broken = (AskTell(np.full(n, 0.3), bounds=bounds, gtol=1e-9, ftol=0) for _ in "ab")
    told(broken, 5).save(tmp_path / "saved.npz")
    broken = told(AskTell.load(tmp_path / "saved.npz"))
    told(straight)
    expected = target if bounds is None else np.clip(target, *bounds)
    np.testing.assert_allclose(straight.result().x, expected, atol=1e-6)
    for a, b in zip(
        jax.tree.leaves(straight.result()), jax.tree.leaves(broken.result()), strict=True
    ):
        np.testing.assert_array_equal(a, b)
