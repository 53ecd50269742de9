"""`check_grad` finds the entry that is wrong, and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from jaxlbfgsb import check_grad

X = np.array([-1.2, 1.0, 0.7, 2.0, -0.3])


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def wrong_at(places, change):
    """Rosenbrock with its gradient changed at some places."""

    def fun(x):
        gradient = jax.grad(rosenbrock)(x)
        return rosenbrock(x), gradient.at[jnp.array(places)].apply(change)

    return fun


def test_right_gradients():
    check = check_grad(rosenbrock, X)
    assert check.ok
    np.testing.assert_allclose(check.gradient, rosen_der(X), rtol=1e-12)
    np.testing.assert_allclose(check.differences, rosen_der(X), rtol=1e-6)
    assert "agrees with differences in 5 entries; the largest relative" in repr(check)
    assert check_grad(jax.value_and_grad(rosenbrock), X, value_and_grad=True).ok
    assert check_grad(rosen, X, jac=rosen_der).ok
    assert check_grad(lambda x: (rosen(x), rosen_der(x)), X, value_and_grad=True).ok
    assert check_grad(lambda x, a: (a * x @ x, "aux"), X, (3.0,), has_aux=True).ok


def test_the_wrong_entry_is_named():
    check = check_grad(wrong_at([3], lambda g: 2 * g), X, value_and_grad=True)
    assert check.wrong.tolist() == [False, False, False, True, False]
    assert not check.ok
    lines = repr(check).splitlines()
    assert lines[0].startswith("The gradient is wrong in 1 of 5 entries. It is 2 times")
    assert lines[2].split()[0] == "x[3]"
    np.testing.assert_allclose(check.error[3], 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda g: -g, "the wrong sign"),
        (lambda g: g[::-1], "order"),
        (lambda g: g / 2, "0.5 times"),
    ],
)
def test_what_wrong_entries_have_in_common(change, told):
    check = check_grad(rosen, X, jac=lambda x: change(rosen_der(x)))
    assert told in repr(check)


def test_custom_rules_and_constants_that_hide_a_derivative():
    @jax.custom_jvp
    def square(x):
        return x**2

    square.defjvp(lambda p, t: (p[0] ** 2, 3 * p[0] * t[0]))
    check = check_grad(
        lambda p: square(p["b"][1, 0]) + p["a"], {"a": 1.0 * X[0], "b": np.ones((2, 1))}
    )
    assert [name for name, wrong in zip(check.names, check.wrong, strict=True) if wrong] == [
        "x['b'][1, 0]"
    ]
    stopped = check_grad(lambda x: x[0] + jax.lax.stop_gradient(x[1] ** 2), X[:2])
    assert stopped.wrong.tolist() == [False, True]
    assert stopped.gradient[1] == 0


def test_no_point_outside_the_bounds():
    seen = []

    def fun(x):
        assert isinstance(x, np.ndarray)
        seen.append(x)
        return np.sum(np.sqrt(x)), 0.5 / np.sqrt(x)

    lower, upper = np.array([1.0, 2.0, 0.5]), np.array([4.0, 2.0, 0.5 + 1e-7])
    check = check_grad(fun, np.array([0.0, 2.0, 0.5]), bounds=(lower, upper), value_and_grad=True)
    points = np.array(seen)
    assert (points >= lower).all()
    assert (points <= upper).all()
    assert check.ok
    assert check.indices.tolist() == [0, 2]
    assert check.skipped == 1
    assert "(1 fixed ones" in repr(check)
    assert abs(check.differences[0] - 0.5) < 1e-8  # at the bound 1, where x0 was moved


def test_noise_is_not_taken_for_an_error():
    def in_single_precision(x):
        return jnp.sum((x.astype(jnp.float32) - 1) ** 2) + 100

    check = check_grad(in_single_precision, X)
    assert check.ok
    assert check.uncertainty.max() > 1e-4
    doubled = check_grad(lambda x: (in_single_precision(x), 4 * (x - 1)), X, value_and_grad=True)
    assert doubled.wrong.tolist() == [True, False, True, True, True]  # at x = 1 it is 0


def test_single_precision_is_checked_in_double():
    with jax.enable_x64(False):
        check = check_grad(rosenbrock, jnp.asarray(X, jnp.float32))
    assert check.ok
    assert check.error.max() < 1e-7


def test_some_entries():
    calls = []

    def fun(x):
        calls.append(x)
        return rosen(x), rosen_der(x)

    check = check_grad(fun, X, value_and_grad=True, indices=[4, 1])
    assert check.indices.tolist() == [1, 4]
    assert check.names == ("x[1]", "x[4]")
    assert len(calls) <= 4 + 2 * 4  # two attempts to trace it, value, gradient; the differences
    with pytest.raises(ValueError, match="integers from 0 to 4"):
        check_grad(rosenbrock, X, indices=[5])


def test_many_wrong_entries_are_not_all_listed():
    check = check_grad(lambda x: (x @ x, 3 * x), np.arange(1.0, 31), value_and_grad=True)
    lines = repr(check).splitlines()
    assert len(lines) == 13
    assert lines[-1].startswith("and 20 more")


def test_nan_in_the_gradient_is_wrong():
    check = check_grad(lambda x: jnp.sum(jnp.where(x > 0, x, jnp.sqrt(-x)) * 0 + x**2), X)
    assert check.wrong.tolist() == [False, True, True, True, False]
    assert "nan" in repr(check)


def test_errors_teach():
    with pytest.raises(TypeError, match="no gradient to check"):
        check_grad(rosen, X)
    with pytest.raises(ValueError, match="gradient once"):
        check_grad(rosen, X, jac=rosen_der, value_and_grad=True)
    with pytest.raises(ValueError, match="fun is nan at x0"):
        check_grad(lambda x: jnp.sum(jnp.log(x)), X)
    with pytest.raises(ValueError, match="must have 5 entries"):
        check_grad(rosen, X, jac=lambda x: rosen_der(x)[:3])
