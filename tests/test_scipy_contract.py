"""The manners of SciPy's L-BFGS-B, sentence by sentence, held against the installed SciPy.

Where SciPy shows a manner itself, a test runs with both solvers or compares the two; a
test of a defect of SciPy that is not copied says so in its name.
"""

import functools
import inspect
import itertools
import multiprocessing.pool
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning, minimize, rosen, rosen_der
from scipy.sparse.linalg import LinearOperator

from jaxlbfgsb import fmin_l_bfgs_b, scipy_method

SCIPY = scipy.optimize.fmin_l_bfgs_b
START = np.array([-1.2, 1.0, 0.5])
BOX = [(-2.0, 2.0), (None, 0.8), (-np.inf, np.inf)]

both_fmins = pytest.mark.parametrize("fmin", [SCIPY, fmin_l_bfgs_b], ids=["scipy", "ours"])
both_methods = pytest.mark.parametrize("method", ["L-BFGS-B", scipy_method], ids=["scipy", "ours"])


def pair(x):
    """Rosenbrock's function and its gradient."""
    return rosen(x), rosen_der(x)


def jax_rosen(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(x):
    return float(np.sum((x - 3.0) ** 2)), 2 * (x - 3.0)


class Recorded:
    """A function that keeps a copy of every point where it was called."""

    def __init__(self, fun):
        self.fun = fun
        self.points = []

    def __call__(self, x, *args):
        self.points.append(np.array(x))
        return self.fun(x, *args)


def solve(method, fun, x0, jac, bounds=None, options=None):
    """`minimize`, which hands a custom method no name of a difference formula."""
    if method is scipy_method:
        return scipy_method(fun, x0, jac=jac, bounds=bounds, **(options or {}))
    return minimize(fun, x0, jac=jac, bounds=bounds, method=method, options=options)


def counts(details):
    """What of `details` two solvers must have in common."""
    return {name: details[name] for name in ("task", "funcalls", "nit", "warnflag")}


# ---------------------------------------------------------------- signature and output


def test_the_signature_is_that_of_scipy():
    theirs = inspect.signature(SCIPY).parameters
    ours = inspect.signature(fmin_l_bfgs_b).parameters
    deprecated = {"disp", "iprint"}  # gone from SciPy 1.18, accepted here
    if deprecated <= theirs.keys():
        assert list(ours) == list(theirs)
    kept = [name for name in theirs if name not in deprecated]
    assert [name for name in ours if name not in deprecated] == kept
    for name in kept:
        assert ours[name].default == theirs[name].default, name
        assert ours[name].kind == theirs[name].kind, name


@both_fmins
def test_keys_order_and_types(fmin):
    x, f, details = fmin(pair, START)
    assert list(details) == ["grad", "task", "funcalls", "nit", "warnflag"]
    assert type(x) is np.ndarray
    assert x.dtype == np.float64
    assert x.shape == (3,)
    assert isinstance(f, float)
    assert type(details["grad"]) is np.ndarray
    assert details["grad"].dtype == np.float64
    assert details["grad"].shape == (3,)
    assert type(details["task"]) is str
    for name in ("funcalls", "nit", "warnflag"):
        assert type(details[name]) is int


@pytest.mark.parametrize("fun", [pair, jax.value_and_grad(jax_rosen)], ids=["numpy", "jax"])
def test_the_value_has_the_attributes_of_a_numpy_number(fun):
    _, f, _ = fmin_l_bfgs_b(fun, START)
    result = minimize(fun, START, jac=True, method=scipy_method)
    for value in (f, result.fun):
        assert isinstance(value, np.float64)
        assert value.shape == ()


@pytest.mark.parametrize("fun", [pair, jax_rosen], ids=["numpy", "jax"])
def test_arrays_of_the_result_belong_to_the_caller(fun):
    x, _, details = fmin_l_bfgs_b(fun, START)
    x += 1
    details["grad"] += 1
    result = minimize(fun, START, jac=fun is pair or None, method=scipy_method)
    result.x += 1
    result.jac += 1


def test_a_short_run_makes_the_evaluations_of_scipy():
    points = []
    for fmin in (SCIPY, fmin_l_bfgs_b):
        fun = Recorded(pair)
        fmin(fun, START, bounds=BOX, maxiter=8)
        points.append(np.array(fun.points))
    np.testing.assert_allclose(points[1], points[0], rtol=1e-7, atol=1e-9)


# --------------------------------------------------------------- what goes in


@pytest.mark.parametrize("args", [2.0, np.array([1.0, 2.0, 3.0]), np.array(2.0), (2.0,)])
def test_args_that_are_no_tuple_are_wrapped(args):
    seen = []

    def fun(x, *given):
        seen.append(given)
        return float(np.sum((x - given[0]) ** 2)), 2 * (x - given[0])

    x, _, _ = fmin_l_bfgs_b(fun, np.zeros(3), args=args)
    assert all(len(given) == 1 for given in seen)
    np.testing.assert_allclose(x, np.broadcast_to(np.ravel(args), 3), atol=1e-6)


@both_fmins
def test_a_list_of_args_is_unpacked_by_fmin(fmin):
    x, _, _ = fmin(lambda x, a, b: (np.sum((x - a * b) ** 2), 2 * (x - a * b)), START, args=[2, 3])
    np.testing.assert_allclose(x, 6, atol=1e-6)


@both_fmins
@pytest.mark.parametrize("bounds", [None, [(-1.0, 0.6)] * 600], ids=["free", "bounded"])
def test_numpy_functions_of_many_variables(fmin, bounds):
    target, weights = np.linspace(0, 1, 600), np.geomspace(1, 30, 600)

    def pull(x):
        return weights @ (x - target) ** 2 / 2, weights * (x - target)

    x, _, info = fmin(pull, np.full(600, 0.3), bounds=bounds, pgtol=1e-8, factr=0)
    assert info["warnflag"] == 0
    np.testing.assert_allclose(x, target if bounds is None else np.minimum(target, 0.6), atol=1e-7)


@both_fmins
@pytest.mark.parametrize("x0", [np.zeros((3, 1)), [[0, 0, 0]], 0.0, 0, np.array(0.0)])
def test_x0_is_raveled_and_made_float64(fmin, x0):
    fun = Recorded(quadratic)
    x, _, _ = fmin(fun, x0)
    assert x.shape == (np.size(x0),)
    assert x.dtype == np.float64
    assert all(p.shape == x.shape and p.dtype == np.float64 for p in fun.points)
    np.testing.assert_allclose(x, 3, atol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float16, np.float32])
def test_the_objective_always_sees_float64(dtype):
    fun = Recorded(quadratic)
    x, f, _ = fmin_l_bfgs_b(fun, np.ones(3, dtype))
    assert {p.dtype for p in fun.points} == {np.dtype(np.float64)}
    assert f == quadratic(x)[0]


def test_not_copied_float32_x0_rounds_the_points_of_the_objective():
    def fun(x):
        return np.sum((np.asarray(x, np.float64) - 1 / 3) ** 2), 2 * (x - 1 / 3)

    x, f, _ = fmin_l_bfgs_b(fun, np.zeros(3, np.float32))
    assert f == fun(x)[0]


def test_complex_x0_is_an_error():
    with pytest.raises(TypeError, match="x0 must be real"):
        fmin_l_bfgs_b(pair, np.zeros(3, complex))


def test_x0_is_not_overwritten():
    x0 = np.array([5.0, -5.0, 0.0])
    fmin_l_bfgs_b(quadratic, x0, bounds=[(-1, 1)] * 3)
    np.testing.assert_array_equal(x0, [5.0, -5.0, 0.0])


@both_fmins
def test_approx_grad_wins_over_fprime(fmin):
    def fprime(x):
        raise AssertionError("not to be called")

    x, _, _ = fmin(lambda x: quadratic(x)[0], np.zeros(3), fprime, approx_grad=True)
    np.testing.assert_allclose(x, 3, atol=1e-5)


@both_fmins
def test_fprime_gets_the_arguments_too(fmin):
    x, _, _ = fmin(
        lambda x, a, b: float(np.sum((x - a * b) ** 2)),
        np.zeros(3),
        lambda x, a, b: 2 * (x - a * b),
        args=(2.0, 3.0),
    )
    np.testing.assert_allclose(x, 6, atol=1e-6)


@both_fmins
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("grad", ["pair", "fprime", "differences"])
def test_a_value_of_size_one_may_have_any_shape(fmin, shape, grad):
    def value(x):
        return np.full(shape, quadratic(x)[0])

    def fprime(x):
        return quadratic(x)[1]

    if grad == "pair":
        x, f, _ = fmin(lambda x: (value(x), fprime(x)), np.zeros(3))
    elif grad == "fprime":
        x, f, _ = fmin(value, np.zeros(3), fprime)
    else:
        x, f, _ = fmin(value, np.zeros(3), approx_grad=True)
    assert np.shape(f) == ()
    np.testing.assert_allclose(x, 3, atol=1e-5)


@both_fmins
@pytest.mark.parametrize("value", [np.zeros(2), np.zeros((3, 1)), np.zeros(0)])
@pytest.mark.parametrize("grad", ["pair", "fprime", "differences"])
def test_a_value_of_another_size_is_an_error(fmin, value, grad):
    fun = (lambda x: (value, x)) if grad == "pair" else (lambda x: value)
    fprime = (lambda x: x) if grad == "fprime" else None
    with pytest.raises(ValueError, match="objective function must return a scalar value"):
        fmin(fun, START, fprime, approx_grad=grad == "differences")


@pytest.mark.parametrize("value", [jnp.zeros(2), jnp.zeros((3, 1))], ids=str)
def test_a_jax_value_of_another_size_is_the_same_error(value):
    with pytest.raises(ValueError, match="objective function must return a scalar value"):
        fmin_l_bfgs_b(lambda x: value * x[0], START)


def test_not_copied_a_gradient_of_another_length_passes():
    with pytest.raises(ValueError, match="one entry for each of the 3 variables"):
        fmin_l_bfgs_b(lambda x: (1.0, np.zeros(2)), START)
    with pytest.raises(ValueError, match="one entry for each of the 3 variables"):
        fmin_l_bfgs_b(lambda x: 1.0, START, lambda x: np.zeros(1))


def test_a_gradient_may_come_as_a_list_or_a_column():
    for as_given in (list, lambda g: g[:, None], lambda g: g.astype(np.float32)):
        x, _, _ = fmin_l_bfgs_b(lambda x, as_given=as_given: (np.sum(x**2), as_given(2 * x)), START)
        np.testing.assert_allclose(x, 0, atol=1e-5)


@both_fmins
@pytest.mark.parametrize("keep", [False, True], ids=["overwritten", "kept"])
@pytest.mark.parametrize("differences", [False, True], ids=["fprime", "differences"])
def test_the_objective_owns_its_argument(fmin, keep, differences):
    kept, copies = [], []

    def owned(function):
        def call(x):
            value = function(x)
            if keep:
                kept.append(x)
                copies.append(x.copy())
            else:
                x[:] = np.nan
            return value

        return call

    def run(value, fprime):
        return fmin(value, START, None if differences else fprime, approx_grad=differences)

    expected = run(rosen, rosen_der)
    x, f, details = run(owned(rosen), owned(rosen_der))
    np.testing.assert_array_equal(x, expected[0])
    assert f == expected[1]
    assert counts(details) == counts(expected[2])
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert len({id(array) for array in kept}) == len(kept)


# --------------------------------------------------------------- counting


@both_fmins
@pytest.mark.parametrize("n", [1, 3])
def test_differences_are_counted_in_funcalls(fmin, n):
    fun = Recorded(lambda x: quadratic(x)[0])
    _, _, details = fmin(fun, np.zeros(n), approx_grad=True)
    assert details["funcalls"] == len(fun.points)
    assert details["funcalls"] % (n + 1) == 0


def test_maxfun_sees_the_differences():
    runs = [fmin(rosen, START, approx_grad=True, maxfun=20)[2] for fmin in (SCIPY, fmin_l_bfgs_b)]
    assert counts(runs[1]) == counts(runs[0])
    assert runs[1]["warnflag"] == 1
    assert 20 < runs[1]["funcalls"] < 40
    assert runs[1]["nit"] < 7


def test_with_the_gradient_of_jax_an_evaluation_counts_once():
    x, _, details = fmin_l_bfgs_b(jax_rosen, START)
    expected = SCIPY(pair, START)
    np.testing.assert_allclose(x, expected[0], atol=1e-5)
    assert details["funcalls"] == expected[2]["funcalls"]
    assert details["nit"] == expected[2]["nit"]


@both_fmins
def test_calls_of_the_function_and_of_its_gradient_are_counted_exactly(fmin):
    fun, fprime = Recorded(rosen), Recorded(rosen_der)
    _, _, details = fmin(fun, START, fprime, bounds=BOX)
    assert len(fun.points) == len(fprime.points) == details["funcalls"]
    np.testing.assert_array_equal(fun.points, fprime.points)


@both_methods
def test_nfev_and_njev_are_the_calls(method):
    fun, jac = Recorded(rosen), Recorded(rosen_der)
    result = minimize(fun, START, jac=jac, method=method)
    assert (result.nfev, result.njev) == (len(fun.points), len(jac.points))
    fun = Recorded(rosen)
    result = minimize(fun, START, method=method)
    assert result.nfev == len(fun.points)
    assert result.nfev == 4 * result.njev


@both_fmins
@pytest.mark.parametrize("seed", range(6))
def test_no_two_consecutive_evaluations_are_at_the_same_point(fmin, seed):
    rng = np.random.default_rng(seed)
    x0 = rng.normal(size=3)
    bounds = [(-1.5, 0.9)] * 3 if seed % 2 else None
    fun = Recorded(pair)
    fmin(fun, x0, bounds=bounds, factr=10, pgtol=0)
    assert all(np.any(a != b) for a, b in itertools.pairwise(fun.points))


@both_fmins
def test_the_first_evaluation_is_at_the_clipped_x0_and_counts(fmin):
    fun = Recorded(quadratic)
    bounds = [(4, 5), (None, 1), (2, None)]
    x, _, details = fmin(fun, np.array([0.0, 7.0, 0.0]), bounds=bounds)
    np.testing.assert_array_equal(fun.points[0], [4.0, 1.0, 2.0])
    assert details["funcalls"] == len(fun.points)
    np.testing.assert_allclose(x, [4, 1, 3], atol=1e-6)


@both_fmins
def test_nothing_is_done_where_x0_is_optimal(fmin):
    fun = Recorded(quadratic)
    x, f, details = fmin(fun, np.full(3, 4.0), bounds=[(4, 5), (4, None), (4, 4)])
    np.testing.assert_array_equal(x, [4, 4, 4])
    assert f == 3.0
    assert counts(details) == {
        "task": "CONVERGENCE: NORM OF PROJECTED GRADIENT <= PGTOL",
        "funcalls": 1,
        "nit": 0,
        "warnflag": 0,
    }
    assert len(fun.points) == 1


def test_side_effects_of_a_host_function_are_counted_exactly():
    log = []

    def fun(x):
        log.append(float(x[0]))
        return pair(x)

    for repeat in range(1, 4):  # what is remembered of a function spares no call
        log.clear()
        _, _, details = fmin_l_bfgs_b(fun, START)
        assert len(log) == details["funcalls"], repeat


# --------------------------------------------------------------- options


def test_the_options_and_their_defaults_are_those_of_scipy():
    theirs = inspect.signature(scipy.optimize._lbfgsb_py._minimize_lbfgsb).parameters
    from jaxlbfgsb.faces.scipy_api import _Options

    no_options = {"fun", "x0", "args", "jac", "bounds", "callback", "disp", "iprint"}
    expected = {
        name: p.default
        for name, p in theirs.items()
        if name not in no_options and p.kind is not p.VAR_KEYWORD
    }
    assert _Options()._asdict() == expected


@pytest.mark.parametrize(
    "options",
    [
        {"maxcor": 3},
        {"ftol": 1e-2},
        {"gtol": 5.0},
        {"ftol": 0, "gtol": 1e-3},
        {"maxfun": 7},
        {"maxiter": 4},
        {"maxls": 1, "maxiter": 3},
        {"maxls": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("bounds", [None, BOX], ids=["free", "bounded"])
def test_each_option_does_what_it_does_in_scipy(options, bounds):
    runs = [
        minimize(pair, START, jac=True, method=method, bounds=bounds, options=options)
        for method in ("L-BFGS-B", scipy_method)
    ]
    for name in ("status", "nit", "nfev", "njev", "success"):
        assert runs[1][name] == runs[0][name], name
    assert runs[1].message.startswith(runs[0].message)  # ours says what was abnormal
    np.testing.assert_allclose(runs[1].x, runs[0].x, rtol=1e-6)


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-12])
@pytest.mark.parametrize("options", [{}, {"ftol": 1e-4}, {"gtol": 1e-2}], ids=str)
def test_tol_sets_the_tolerances_that_are_not_given(tol, options):
    runs = [
        minimize(pair, START, jac=True, method=method, tol=tol, options=options)
        for method in ("L-BFGS-B", scipy_method)
    ]
    for name in ("status", "message", "nit", "nfev"):
        assert runs[1][name] == runs[0][name], name


def test_factr_is_in_units_of_eps():
    eps = np.finfo(np.float64).eps
    _, _, one = fmin_l_bfgs_b(pair, START, factr=1e-3 / eps)
    two = minimize(pair, START, jac=True, method=scipy_method, options={"ftol": 1e-3})
    assert one["nit"] == two.nit
    assert one["task"] == two.message == "CONVERGENCE: RELATIVE REDUCTION OF F <= FACTR*EPSMCH"


@both_methods
def test_an_unknown_option_warns(method):
    with pytest.warns(OptimizeWarning, match="^Unknown solver options: foo$"):
        result = minimize(pair, START, jac=True, method=method, options={"foo": 1})
    assert result.success


@both_fmins
@pytest.mark.parametrize("maxls", [0, -1])
def test_maxls_must_be_positive(fmin, maxls):
    with pytest.raises(ValueError, match="maxls must be positive"):
        fmin(pair, START, maxls=maxls)


@both_fmins
@pytest.mark.parametrize("keyword", ["disp", "iprint"])
@pytest.mark.parametrize("value", [None, 0, 1])
def test_disp_and_iprint_only_warn(fmin, keyword, value, capfd):
    if fmin is SCIPY and keyword not in inspect.signature(SCIPY).parameters:
        pytest.skip("this SciPy has dropped the keyword")
    expected = fmin(pair, START)
    with pytest.warns(DeprecationWarning, match=r"disp|iprint"):
        x, f, details = fmin(pair, START, **{keyword: value})
    np.testing.assert_array_equal(x, expected[0])
    assert f == expected[1]
    assert counts(details) == counts(expected[2])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("keyword", ["disp", "iprint"])
@pytest.mark.parametrize("value", [None, False, 1])
def test_disp_and_iprint_only_warn_as_options(keyword, value, capfd):
    with pytest.warns(DeprecationWarning, match=keyword):
        result = minimize(pair, START, jac=True, method=scipy_method, options={keyword: value})
    assert result.success
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------- how it ends


def natural_number():
    _, _, details = SCIPY(pair, START)
    return details["nit"], details["funcalls"]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"maxiter": 0},
        {"maxiter": 1},
        {"maxfun": 0},
        {"maxfun": 1},
        {"maxiter": natural_number()[0]},
        {"maxiter": natural_number()[0] - 1},
        {"maxiter": natural_number()[0] + 1},
        {"maxfun": natural_number()[1]},
        {"maxfun": natural_number()[1] - 1},
        {"maxiter": 0, "maxfun": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("fun", [pair, jax_rosen], ids=["numpy", "jax"])
def test_limits_end_runs_as_in_scipy(limits, fun):
    _, _, theirs = SCIPY(pair, START, **limits)
    _, _, ours = fmin_l_bfgs_b(fun, START, **limits)
    assert counts(ours) == counts(theirs)


def test_what_the_limits_mean():
    nit, _ = natural_number()
    _, _, details = fmin_l_bfgs_b(pair, START, maxiter=nit)
    assert details["warnflag"] == 1
    assert details["task"] == "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT"
    for limit in ({"maxiter": 0}, {"maxfun": 0}, {"maxfun": 1}):
        _, _, details = fmin_l_bfgs_b(pair, START, **limit)
        assert details["nit"] == 1
        assert details["warnflag"] == 1
    assert details["task"] == "STOP: TOTAL NO. OF F,G EVALUATIONS EXCEEDS LIMIT"


@both_fmins
def test_a_limit_does_not_hide_convergence_at_x0(fmin):
    _, _, details = fmin(pair, np.ones(3), maxiter=0, maxfun=0)
    assert details["nit"] == 0
    assert details["warnflag"] == 0
    assert details["task"] == "CONVERGENCE: NORM OF PROJECTED GRADIENT <= PGTOL"


@both_methods
def test_success_is_status_zero(method):
    for options in ({}, {"maxiter": 2}, {"maxfun": 2}, {"ftol": 1e-2}):
        result = minimize(pair, START, jac=True, method=method, options=options)
        assert type(result.success) is bool
        assert type(result.status) is int
        assert result.success == (result.status == 0)


@both_fmins
def test_an_abnormal_end_says_so(fmin):
    _, _, details = fmin(lambda x: (np.sum(x**2), -2 * x), START)  # a gradient of the wrong sign
    assert details["task"].startswith("ABNORMAL: ")
    assert details["warnflag"] == 2


@both_fmins
def test_an_abnormal_end_at_a_limit_has_warnflag_1(fmin):
    _, _, details = fmin(lambda x: (np.sum(x**2), -2 * x), START, maxfun=3)
    assert details["task"].startswith("ABNORMAL: ")
    assert details["warnflag"] == 1


@both_fmins
def test_projected_gradient_comes_before_relative_reduction(fmin):
    _, _, details = fmin(quadratic, np.zeros(3), pgtol=5.0, factr=1e20)  # both hold
    assert details["nit"] == 1
    assert details["task"] == "CONVERGENCE: NORM OF PROJECTED GRADIENT <= PGTOL"
    _, _, details = fmin(quadratic, np.zeros(3), pgtol=1.0, factr=1e20)
    assert details["nit"] == 1
    assert details["task"] == "CONVERGENCE: RELATIVE REDUCTION OF F <= FACTR*EPSMCH"


# --------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    "bounds",
    [
        [(-1, 2), (None, 0.25), (0.5, None)],
        ((-1, 2), (-np.inf, 0.25), (0.5, np.inf)),
        [(np.array([-1.0]), np.array(2)), (None, np.array([[0.25]])), (np.float32(0.5), None)],
        [[-1, 2], [None, 0.25], [0.5, None]],
        np.array([[-1, 2], [-np.inf, 0.25], [0.5, np.inf]]),
        Bounds([-1, -np.inf, 0.5], [2, 0.25, np.inf]),
    ],
    ids=["pairs", "infinities", "arrays", "lists", "matrix", "Bounds"],
)
@pytest.mark.parametrize("fun", [pair, jax_rosen], ids=["numpy", "jax"])
def test_every_form_of_bounds(bounds, fun):
    x, f, details = fmin_l_bfgs_b(fun, START, bounds=bounds)
    expected = SCIPY(pair, START, bounds=[(-1, 2), (None, 0.25), (0.5, None)])
    np.testing.assert_allclose(x, expected[0], atol=1e-5)
    np.testing.assert_allclose(f, expected[1], rtol=1e-9)
    assert details["warnflag"] == 0
    assert x[1] == 0.25
    assert x[2] == 0.5


@pytest.mark.parametrize(
    "bounds",
    [
        [(-1, 2), (None, 0.25), (0.5, None)],
        Bounds([-1, -np.inf, 0.5], [2, 0.25, np.inf]),
        Bounds(-2, [0.8, 0.25, 0.7]),
        np.array([[-1, 2], [-np.inf, 0.25], [0.5, np.inf]]),
    ],
    ids=["pairs", "Bounds", "broadcast", "matrix"],
)
def test_every_form_of_bounds_as_a_method(bounds):
    runs = [
        minimize(pair, START, jac=True, method=method, bounds=bounds)
        for method in ("L-BFGS-B", scipy_method)
    ]
    np.testing.assert_allclose(runs[1].x, runs[0].x, atol=1e-5)
    assert runs[1].nit == runs[0].nit


def test_a_stall_of_scipy_is_no_success():
    """SciPy's projected step shrinks to nothing here, and the run ends at f = 0.889."""
    result = minimize(
        pair, START, jac=True, method=scipy_method, bounds=Bounds(-1, [2, 0.25, np.inf])
    )
    np.testing.assert_allclose(result.x, [0.5048796, 0.25, 0.0625], atol=1e-4)
    assert result.success
    assert result.x[1] == 0.25


@both_fmins
@pytest.mark.parametrize("bounds", [[(0, 1)], [(0, 1)] * 4, []], ids=["short", "long", "empty"])
def test_bounds_of_a_wrong_length(fmin, bounds):
    with pytest.raises(ValueError, match=r"^length of x0 != length of bounds$"):
        fmin(pair, START, bounds=bounds)


@both_fmins
def test_crossed_bounds(fmin):
    text = r"^LBFGSB - one of the lower bounds is greater than an upper bound\.$"
    with pytest.raises(ValueError, match=text):
        fmin(pair, START, bounds=[(0, 1), (2, 1), (0, 1)])


def test_crossed_bounds_in_the_forms_beyond_scipy():
    for bounds in (Bounds([0, 2, 0], 1), np.array([[0, 1], [2, 1], [0, 1]])):
        with pytest.raises(ValueError, match="one of the lower bounds is greater"):
            fmin_l_bfgs_b(pair, START, bounds=bounds)


def test_bounds_object_of_a_wrong_length():
    with pytest.raises(ValueError, match=r"^length of x0 != length of bounds$"):
        fmin_l_bfgs_b(pair, START, bounds=Bounds(np.zeros(2), np.ones(2)))


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        ((np.inf, np.inf), "no finite number"),
        ((-np.inf, -np.inf), "no finite number"),
        ((np.nan, 1), "NaN"),
        ((0, np.nan), "NaN"),
        ((0, 1, 2), "pairs"),
        (3.0, "pairs"),
        ((np.zeros(2), 1), "number or None"),
    ],
    ids=str,
)
def test_not_copied_senseless_bounds_pass_or_end_in_a_key_error(bound, text):
    with pytest.raises(ValueError, match=text):
        fmin_l_bfgs_b(pair, START, bounds=[(0, 1), bound, (0, 1)])


@both_fmins
def test_a_fixed_variable_keeps_its_value(fmin):
    fun = Recorded(pair)
    x, _, details = fmin(fun, START, bounds=[(None, None), (0.5, 0.5), (None, None)])
    assert all(point[1] == 0.5 for point in fun.points)
    assert x[1] == 0.5
    assert details["warnflag"] == 0


# --------------------------------------------------------------- callback


def stop_after(k, style):
    calls = itertools.count(1)

    def old(xk):
        if next(calls) == k:
            raise StopIteration

    def new(intermediate_result):
        old(intermediate_result.x)

    return old if style == "old" else new


@both_fmins
@pytest.mark.parametrize("style", ["old", "new"])
def test_the_callback_is_called_once_for_each_iteration(fmin, style):
    seen = []

    def old(xk):
        seen.append(np.array(xk))
        return True  # ignored

    def new(intermediate_result):
        assert set(intermediate_result) == {"x", "fun"}
        assert isinstance(intermediate_result, OptimizeResult)
        assert intermediate_result.fun == rosen(intermediate_result.x)
        return old(intermediate_result.x)

    x, _, details = fmin(pair, START, callback=old if style == "old" else new)
    assert len(seen) == details["nit"] > 3
    assert all(np.any(point != START) for point in seen)
    np.testing.assert_array_equal(seen[-1], x)


@both_fmins
def test_the_callback_is_not_called_at_x0(fmin):
    seen = []
    fmin(pair, np.ones(3), callback=seen.append)
    assert seen == []


@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("fun", [pair, jax_rosen], ids=["numpy", "jax"])
def test_what_the_callback_receives_is_its_own(style, fun):
    kept, copies = [], []

    def old(xk):
        assert type(xk) is np.ndarray
        kept.append(xk)
        copies.append(xk.copy())

    def new(intermediate_result):
        assert isinstance(intermediate_result.fun, float)
        old(intermediate_result.x)

    def spoil(xk):
        xk[:] = np.nan

    def spoil_new(intermediate_result):
        intermediate_result.x[:] = np.nan

    expected = fmin_l_bfgs_b(fun, START)
    fmin_l_bfgs_b(fun, START, callback=old if style == "old" else new)
    np.testing.assert_array_equal(kept, copies)
    x, _, details = fmin_l_bfgs_b(fun, START, callback=spoil if style == "old" else spoil_new)
    np.testing.assert_allclose(x, expected[0], rtol=1e-9)
    assert counts(details) == counts(expected[2])


@both_fmins
def test_callbacks_of_every_kind_of_callable(fmin):
    class Watcher:
        def __init__(self):
            self.count = 0

        def __call__(self, intermediate_result):
            self.count += intermediate_result.fun >= 0

        def method(self, xk):
            self.count += xk.shape == (3,)

    watcher = Watcher()
    _, _, details = fmin(pair, START, callback=watcher)
    assert watcher.count == details["nit"]
    fmin(pair, START, callback=watcher.method)
    assert watcher.count == 2 * details["nit"]
    values = []

    def with_extra(sink, intermediate_result):
        sink.append(intermediate_result.fun)

    fmin(pair, START, callback=functools.partial(with_extra, values))
    assert len(values) == details["nit"]


@both_fmins
@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("k", [1, 3])
def test_stop_iteration_in_fmin(fmin, style, k):
    fun = Recorded(pair)
    x, f, details = fmin(fun, START, callback=stop_after(k, style))
    assert details["nit"] == k
    assert details["warnflag"] == 2
    assert details["task"] == "STOP: CALLBACK REQUESTED HALT"
    assert details["funcalls"] == len(fun.points)
    np.testing.assert_array_equal(fun.points[-1], x)  # nothing was evaluated after the stop
    assert f == rosen(x)


@pytest.mark.parametrize("k", [1, 3])
def test_stop_iteration_in_fmin_with_a_jax_function(k):
    expected = SCIPY(pair, START, callback=stop_after(k, "old"))
    x, _, details = fmin_l_bfgs_b(jax_rosen, START, callback=stop_after(k, "old"))
    assert counts(details) == counts(expected[2])
    np.testing.assert_allclose(x, expected[0], rtol=1e-9)


@both_fmins
@pytest.mark.parametrize("limit", [{"maxiter": 1}, {"maxfun": 1}], ids=str)
def test_a_limit_reached_with_stop_iteration_is_the_reason(fmin, limit):
    _, _, details = fmin(pair, START, callback=stop_after(1, "old"), **limit)
    assert details["task"].startswith("STOP: TOTAL NO. OF")
    assert details["warnflag"] == 1


@both_methods
@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("options", [{}, {"maxiter": 2}], ids=str)
def test_stop_iteration_in_minimize(method, style, options):
    fun = Recorded(pair)
    result = minimize(
        fun, START, jac=True, method=method, callback=stop_after(2, style), options=options
    )
    assert result.status == 99
    assert result.success is False
    assert result.message == "`callback` raised `StopIteration`."
    assert result.nit == 2
    assert result.nfev == len(fun.points)


@both_fmins
@pytest.mark.parametrize("fun", [pair, jax_rosen], ids=["numpy", "jax"])
def test_other_exceptions_of_the_callback_propagate(fmin, fun):
    if fmin is SCIPY and fun is jax_rosen:
        fun = pair  # SciPy does not differentiate it

    class Mine(Exception):
        pass

    def callback(xk):
        raise Mine

    with pytest.raises(Mine):
        fmin(fun, START, callback=callback)


@both_fmins
@pytest.mark.parametrize("when", [1, 4])
@pytest.mark.parametrize("error", [RuntimeError, StopIteration, KeyboardInterrupt])
def test_exceptions_of_the_objective_propagate(fmin, when, error):
    calls = itertools.count(1)

    def fun(x):
        if next(calls) == when:
            raise error("mine")
        return pair(x)

    with pytest.raises(error, match="mine"):
        fmin(fun, START)
    assert next(calls) == when + 1


def test_an_exception_of_a_jax_function_propagates():
    def fun(x):
        raise RuntimeError("mine")
        return jnp.sum(x)

    with pytest.raises(RuntimeError, match="mine"):
        fmin_l_bfgs_b(fun, START)


# --------------------------------------------------------------- scipy_method


@both_methods
def test_fields_of_the_result(method):
    result = minimize(pair, START, jac=True, method=method, bounds=BOX)
    assert isinstance(result, OptimizeResult)
    wanted = {"x", "fun", "jac", "nfev", "njev", "nit", "status", "message", "success", "hess_inv"}
    assert wanted <= set(result)
    assert result.x.shape == result.jac.shape == (3,)
    assert isinstance(result.hess_inv, LinearOperator)
    assert "message" in repr(result)


@pytest.mark.parametrize("jac", [rosen_der, None, False, "2-point", "3-point", "cs"])
@pytest.mark.parametrize("bounds", [None, [(-2.0, 2.0), (None, 0.8), (0, 0.7)]])
def test_every_form_of_jac(jac, bounds):
    runs = [solve(method, rosen, START, jac, bounds) for method in ("L-BFGS-B", scipy_method)]
    np.testing.assert_allclose(runs[1].x, runs[0].x, atol=1e-4)
    np.testing.assert_allclose(runs[1].fun, runs[0].fun, atol=1e-7)
    assert runs[1].success


@pytest.mark.parametrize("jac", ["2-point", "3-point", "cs"])
def test_a_formula_costs_what_it_costs_in_scipy(jac):
    runs = []
    for method in ("L-BFGS-B", scipy_method):
        fun = Recorded(rosen)
        runs.append(solve(method, fun, START, jac, options={"maxiter": 3}))
        assert runs[-1].nfev == len(fun.points)
    assert (runs[1].nit, runs[1].nfev, runs[1].njev) == (runs[0].nit, runs[0].nfev, runs[0].njev)
    np.testing.assert_allclose(runs[1].x, runs[0].x, rtol=1e-5)


@both_methods
def test_a_memoised_pair_is_called_once_for_each_point(method):
    fun = Recorded(pair)
    result = minimize(fun, START, jac=True, method=method)
    assert len(fun.points) == result.nfev == result.njev


def test_a_memoised_pair_of_jax_is_unwrapped_and_compiled():
    traced = []

    def fun(x):
        traced.append(isinstance(x, jax.core.Tracer))
        return jax.value_and_grad(jax_rosen)(x)

    result = minimize(fun, START, jac=True, method=scipy_method)
    assert result.success
    assert any(traced)
    assert len(traced) < result.nfev


def test_a_memoised_pair_gets_its_arguments():
    def fun(x, a, b):
        return np.sum((x - a) ** 2) + b, 2 * (x - a)

    result = minimize(fun, START, args=(2.0, 1.0), jac=True, method=scipy_method)
    np.testing.assert_allclose(result.x, 2, atol=1e-6)
    assert result.fun == pytest.approx(1.0)


@pytest.mark.parametrize(
    "constraints",
    [{"type": "eq", "fun": lambda x: x[0]}, [{"type": "eq", "fun": lambda x: x[0]}]],
    ids=["dict", "list"],
)
def test_constraints_are_an_error(constraints):
    with pytest.raises(ValueError, match="constraints"):
        minimize(pair, START, jac=True, method=scipy_method, constraints=constraints)


def test_a_constraint_object_is_an_error():
    linear = scipy.optimize.LinearConstraint(np.eye(3), 0, 1)
    with pytest.raises(ValueError, match="constraints"):
        minimize(pair, START, jac=True, method=scipy_method, constraints=linear)


@pytest.mark.parametrize("constraints", [(), [], None])
def test_empty_constraints_are_none(constraints):
    assert scipy_method(pair, START, jac=True, constraints=constraints).success


def test_hess_is_not_used():
    def never(*args):
        raise AssertionError("not to be called")

    assert scipy_method(pair, START, jac=True, hess=never, hessp=never).success


def test_methods_that_call_minimize_take_ours():
    kwargs = {"method": scipy_method, "jac": True}
    result = scipy.optimize.basinhopping(pair, START, niter=3, minimizer_kwargs=kwargs, rng=1)
    np.testing.assert_allclose(result.x, 1, atol=1e-4)


@pytest.mark.parametrize("maxcor", [3, 10])
def test_not_copied_the_inverse_hessian_is_in_storage_order(maxcor):
    fun = Recorded(pair)
    iterates = [np.array(START)]
    result = minimize(
        fun,
        START,
        jac=True,
        method=scipy_method,
        callback=lambda xk: iterates.append(xk),
        options={"maxcor": maxcor, "ftol": 0, "gtol": 1e-3},
    )
    assert result.nit > maxcor
    H = result.hess_inv
    assert H.sk.shape == H.yk.shape
    assert len(H.sk) <= maxcor
    s = iterates[-1] - iterates[-2]
    y = rosen_der(iterates[-1]) - rosen_der(iterates[-2])
    np.testing.assert_allclose(H.sk[-1], s, rtol=1e-8, atol=1e-14)  # the last pair is in it
    newest = H.yk[-1]
    np.testing.assert_allclose(H @ newest, H.sk[-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(newest, y, rtol=1e-6, atol=1e-9)


@both_methods
def test_the_inverse_hessian_is_a_linear_operator(method):
    H = minimize(pair, START, jac=True, method=method).hess_inv
    dense = H.todense()
    v, V = np.arange(3.0), np.arange(6.0).reshape(3, 2)
    assert H.shape == (3, 3)
    assert H.dtype == np.float64
    np.testing.assert_allclose(H @ v, dense @ v)
    np.testing.assert_allclose(H.matmat(v[:, None]), (dense @ v)[:, None])
    np.testing.assert_allclose(H(v), dense @ v)
    np.testing.assert_allclose(H @ V, dense @ V)
    np.testing.assert_allclose(dense, dense.T, rtol=1e-8, atol=1e-12)
    assert np.linalg.eigvalsh(dense).min() > 0


@both_methods
def test_the_inverse_hessian_without_a_step_is_the_identity(method):
    H = minimize(pair, np.ones(3), jac=True, method=method).hess_inv
    np.testing.assert_array_equal(H.todense(), np.eye(3))


def test_the_inverse_hessian_takes_integers():
    H = minimize(pair, START, jac=True, method=scipy_method).hess_inv
    v = np.array([1, 2, 3])
    np.testing.assert_allclose(H @ v, H @ v.astype(float))
    np.testing.assert_array_equal(v, [1, 2, 3])


# --------------------------------------------------------------- defects not copied


def test_not_copied_infinity_outside_the_domain_counts_as_convergence():
    def fun(x):
        inside = np.all(x > 0)
        return (np.sum(x - np.log(x)), 1 - 1 / x) if inside else (np.inf, np.zeros_like(x))

    x, f, details = fmin_l_bfgs_b(fun, np.array([1e-3, 5.0, 30.0]))
    assert np.isfinite(f)
    assert f == fun(x)[0]
    assert details["warnflag"] == 0
    np.testing.assert_allclose(x, 1, atol=1e-3)


def test_not_copied_infinity_at_x0_counts_as_convergence():
    _, f, details = fmin_l_bfgs_b(lambda x: (np.inf, np.ones(3)), np.zeros(3))
    assert f == np.inf
    assert details["warnflag"] == 2
    assert details["task"].startswith("ABNORMAL: ")


def test_not_copied_a_nan_at_a_bound_makes_the_value_nan():
    def fun(x):
        if np.any(x <= 0):
            return np.nan, np.full(3, np.nan)
        return np.sum(x - 1e-3 * np.log(x)), 1 - 1e-3 / x

    x, f, details = fmin_l_bfgs_b(fun, np.array([2.0, 3.0, 1.0]), bounds=[(0, None)] * 3)
    assert f == fun(x)[0]
    assert np.isfinite(f)
    np.testing.assert_allclose(x, 1e-3, rtol=1e-2)
    assert details["warnflag"] == 0


def test_not_copied_a_function_without_a_minimum_ends_in_success():
    x, f, details = fmin_l_bfgs_b(lambda x: (-(x[0] ** 3), -3 * x**2), np.array([1.0]))
    assert details["warnflag"] == 2
    assert np.isfinite(f)
    assert f == -(x[0] ** 3)
    assert "unbounded" in details["task"]


@both_fmins
def test_the_value_is_that_at_x(fmin):
    for bounds, limits in itertools.product((None, BOX), ({}, {"maxiter": 3}, {"maxfun": 4})):
        x, f, details = fmin(pair, START, bounds=bounds, **limits)
        assert f == rosen(x)
        np.testing.assert_array_equal(details["grad"], rosen_der(x))


# --------------------------------------------------------------- the examples of SciPy


X = np.arange(0, 10, 1)
Y = 2 * X + 3


def squares(parameters, *args):
    x, y = args
    m, b = parameters
    return sum(np.power(y - (m * x + b), 2))


def squares_in_jax(parameters, *args):
    x, y = args
    m, b = parameters
    return jnp.sum(jnp.power(y - (m * x + b), 2))


@both_fmins
def test_the_first_example_of_scipy(fmin):
    x, f, details = fmin(squares, x0=np.array([0.0, 1.0]), args=(X, Y), approx_grad=True)
    np.testing.assert_allclose(x, [2, 3], atol=1e-5)
    assert f < 1e-10
    assert details["warnflag"] == 0


@pytest.mark.parametrize(
    ("fun", "more"),
    [
        (squares, {"approx_grad": True}),
        (squares_in_jax, {"approx_grad": True}),
        (squares_in_jax, {}),
    ],
    ids=["numpy", "jax", "jax with its gradient"],
)
def test_not_copied_the_second_example_of_scipy_stops_early(fun, more):
    x, f, details = fmin_l_bfgs_b(
        fun, x0=np.array([0.0, 1.0]), args=(X, Y), bounds=[(0, 5), (5, 10)], **more
    )
    np.testing.assert_allclose(x, [480 / 285, 5], rtol=1e-6)
    assert x[1] == 5
    np.testing.assert_allclose(f, 220 / 19, rtol=1e-9)
    assert details["warnflag"] == 0


# --------------------------------------------------------------- finite differences


BOXES = {
    "wide": ([-10.0] * 3, [10.0] * 3),
    "one side": ([-np.inf, 0.0, 1.5], [0.5, np.inf, np.inf]),
    "a fixed variable": ([-2.0, 0.3, -1.0], [2.0, 0.3, 1.0]),
    "narrow": ([0.3, 0.3, 0.3], [0.3 + 1e-9, 0.3 + 1e-12, 0.3 + 2e-16]),
    "one unit": ([0.3, -0.3, 0.0], [0.3 + 5e-17, -0.3 + 5e-17, 5e-324]),
    "far from zero": ([1e8, -1e8 - 1, 1e16], [1e8 + 1e-7, -1e8, 1e16 + 4]),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("jac", ["2-point", "3-point", "cs"])
@pytest.mark.parametrize("corner", ["lower", "upper", "inside"])
def test_differences_never_leave_the_box(box, jac, corner):
    lower, upper = map(np.array, box)
    some = {"lower": 0.0, "upper": 1.0, "inside": 0.37}[corner]
    near, far = (
        np.where(np.isfinite(lower), lower, upper - 3),
        np.where(np.isfinite(upper), upper, lower + 3),
    )
    seen = []

    def fun(x):
        seen.append(np.array(x))
        return np.sum((x - lower.clip(-9, 9) - 0.25) ** 2)

    start = np.clip(near + some * (far - near), lower, upper)
    result = scipy_method(fun, start, jac=jac, bounds=Bounds(lower, upper), maxiter=15)
    points = np.real(seen)
    assert np.all((points >= lower) & (points <= upper))
    assert result.nfev == len(seen)
    assert np.all(np.isfinite(result.jac))
    fixed = lower == upper
    assert np.all(points[:, fixed] == lower[fixed])


@pytest.mark.parametrize("jac", [None, "2-point", "3-point", "cs"])
@pytest.mark.parametrize("where", ["lower", "upper", "inside"])
def test_differences_are_accurate_on_the_bounds_too(jac, where):
    x0 = np.array([0.5, -0.7, 1.2])
    lower, upper = x0 - (0 if where == "lower" else 1), x0 + (0 if where == "upper" else 1)
    result = scipy_method(rosen, x0, jac=jac, bounds=Bounds(lower, upper), gtol=1e9)
    assert result.nit == 0
    tolerance = 1e-5 if jac in (None, "2-point") else 1e-7
    np.testing.assert_allclose(result.jac, rosen_der(x0), rtol=tolerance)


def test_a_fixed_variable_costs_no_evaluation():
    fun = Recorded(rosen)
    bounds = [(-2, 2), (0.5, 0.5), (-2, 2)]
    _, _, details = fmin_l_bfgs_b(fun, START, approx_grad=True, bounds=bounds)
    assert details["funcalls"] == len(fun.points)
    assert details["funcalls"] % 3 == 0  # two of three variables move
    assert details["grad"][1] == 0
    assert all(point[1] == 0.5 for point in fun.points)


@pytest.mark.parametrize("epsilon", [1e-6, np.array([1e-5, 1e-6, 1e-7])], ids=["one", "each"])
def test_epsilon_is_the_step_of_the_differences(epsilon):
    runs = []
    for fmin in (SCIPY, fmin_l_bfgs_b):
        fun = Recorded(rosen)
        fmin(fun, START, approx_grad=True, epsilon=epsilon, pgtol=1e9)
        runs.append(np.array(fun.points))
    np.testing.assert_allclose(runs[1], runs[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("jac", "rel_step"),
    [
        (None, None),
        *itertools.product(["2-point", "3-point", "cs"], [None, 1e-4, [1e-4, 1e-5, -1e-6]]),
    ],
    ids=str,
)
def test_the_points_of_the_differences_are_those_of_scipy(jac, rel_step):
    runs = []
    for method in ("L-BFGS-B", scipy_method):
        fun = Recorded(rosen)
        options = {"finite_diff_rel_step": rel_step, "gtol": 1e9}
        solve(method, fun, START * 40, jac, options=options)
        runs.append(np.array(fun.points))
    assert runs[1].shape == runs[0].shape
    np.testing.assert_allclose(runs[1], runs[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("jac", ["2-point", "3-point", "cs"])
def test_workers_evaluate_the_differences(jac):
    batches = []

    def workers(fun, points):
        points = list(points)
        batches.append(len(points))
        return map(fun, points)

    plain = scipy_method(rosen, START, jac=jac)
    result = scipy_method(rosen, START, jac=jac, workers=workers)
    np.testing.assert_array_equal(result.x, plain.x)
    assert result.nfev == plain.nfev
    assert set(batches) == {6 if jac == "3-point" else 3}
    with multiprocessing.pool.ThreadPool(2) as pool:
        threaded = scipy_method(rosen, START, jac=jac, workers=pool.map)
    np.testing.assert_array_equal(threaded.x, plain.x)


class NotPicklable(multiprocessing.pool.ThreadPool):
    """A pool that pickles what it is given, as one of processes does, but starts none."""

    def map(self, fun, points):
        fun = pickle.loads(pickle.dumps(fun))
        return [fun(pickle.loads(pickle.dumps(point))) for point in points]


def test_workers_may_be_processes():
    with NotPicklable(1) as pool:
        result = scipy_method(rosen, START, workers=pool.map)
    assert result.success


def test_workers_must_be_callable():
    with pytest.raises(TypeError, match="map-like"):
        scipy_method(rosen, START, workers=2)


# --------------------------------------------------------------- JAX functions


def test_a_jax_function_with_a_numpy_gradient():
    fun, fprime = Recorded(lambda x: jax_rosen(jnp.asarray(x))), Recorded(rosen_der)
    x, f, details = fmin_l_bfgs_b(fun, START, fprime)
    expected = SCIPY(pair, START)
    np.testing.assert_allclose(x, expected[0], atol=1e-5)
    assert f == pytest.approx(expected[1], abs=1e-8)
    assert len(fprime.points) == details["funcalls"]


def test_a_numpy_function_with_a_jax_gradient():
    x, _, details = fmin_l_bfgs_b(rosen, START, jax.grad(jax_rosen))
    np.testing.assert_allclose(x, 1, atol=1e-4)
    assert details["warnflag"] == 0


def test_a_jax_function_with_a_jax_gradient():
    x, _, details = fmin_l_bfgs_b(jax_rosen, START, jax.grad(jax_rosen), bounds=BOX)
    expected = SCIPY(pair, START, bounds=BOX)
    np.testing.assert_allclose(x, expected[0], atol=1e-6)
    assert counts(details) == counts(expected[2])


def test_a_jax_function_that_returns_a_pair():
    x, _, details = fmin_l_bfgs_b(jax.value_and_grad(jax_rosen), START)
    expected = SCIPY(pair, START)
    np.testing.assert_allclose(x, expected[0], atol=1e-5)
    assert counts(details) == counts(expected[2])


def test_a_jitted_function():
    x, _, details = fmin_l_bfgs_b(jax.jit(jax_rosen), START)
    np.testing.assert_allclose(x, 1, atol=1e-4)
    assert details["warnflag"] == 0


def with_an_if(x):
    return jnp.sum((x - 1) ** 2) if x[0] > 0.5 else jnp.sum((x - 1) ** 4) + (x[0] - 0.5) ** 2


def with_a_float(x):
    return jnp.sum((x - float(jnp.ceil(x[0] * 0 + 1.5))) ** 2)


def with_numpy_inside(x):
    return jnp.asarray(np.sum((np.asarray(x) - 2.0) ** 2))


@pytest.mark.parametrize("fun", [with_an_if, with_a_float, with_numpy_inside])
@pytest.mark.parametrize("repeat", [1, 2])
def test_a_jax_function_that_cannot_be_traced_is_called_on_the_host(fun, repeat):
    x, f, details = fmin_l_bfgs_b(fun, np.zeros(3))
    np.testing.assert_allclose(x, 1 if fun is with_an_if else 2, atol=1e-3)
    assert f == float(fun(x))
    assert details["warnflag"] == 0


def test_a_pair_of_jax_that_cannot_be_traced():
    def fun(x):
        value = float(jnp.sum((x - 2.0) ** 2))
        return jnp.asarray(value), 2 * (jnp.asarray(x) - 2)

    x, _, details = fmin_l_bfgs_b(fun, np.zeros(3))
    np.testing.assert_allclose(x, 2, atol=1e-6)
    assert details["warnflag"] == 0


def test_an_argument_may_be_a_length():
    def fun(x, k, shift):
        return jnp.sum((x[:k] - shift) ** 2) + jnp.sum(jnp.zeros(k)) + jnp.sum(x[k:] ** 2)

    x, _, details = fmin_l_bfgs_b(fun, np.full(3, 7.0), args=(2, 2.0))
    np.testing.assert_allclose(x, [2.0, 2.0, 0.0], atol=1e-5)
    assert details["warnflag"] == 0


def test_arguments_may_be_strings_functions_and_objects():
    def fun(x, name, transform, table):
        return jnp.sum((transform(x) - table[name]) ** 2)

    x, _, _ = fmin_l_bfgs_b(fun, np.ones(3), args=("b", lambda x: 2 * x, {"a": 1.0, "b": 5.0}))
    np.testing.assert_allclose(x, 2.5, atol=1e-6)


def test_new_values_of_arguments_and_closures_count():
    scale = {"value": np.ones(3)}

    def fun(x, a):
        return jnp.sum((x - a * scale["value"]) ** 2)

    for a, s in ((1.0, 1.0), (2.0, -3.0)):
        scale["value"] = np.full(3, s)
        x, _, _ = fmin_l_bfgs_b(fun, np.zeros(3), args=(a,))
        np.testing.assert_allclose(x, a * s, atol=1e-6)


def test_a_number_without_a_gradient_is_an_error_that_teaches():
    with pytest.raises(TypeError, match="approx_grad"):
        fmin_l_bfgs_b(rosen, START)


def test_a_jax_function_does_not_need_a_gradient_in_either_face():
    result = minimize(jax_rosen, START, method=scipy_method)
    _, _, details = fmin_l_bfgs_b(jax_rosen, START)
    assert result.nfev == details["funcalls"]
    assert result.nit == details["nit"]
    approximate = fmin_l_bfgs_b(jax_rosen, START, approx_grad=True)[2]
    assert approximate["funcalls"] == details["funcalls"]


# --------------------------------------------------------------- JAX in single precision


SINGLE = """
import warnings
import numpy as np, jax, jax.numpy as jnp
from scipy.optimize import minimize, rosen, rosen_der
from jaxlbfgsb import fmin_l_bfgs_b, scipy_method
def jax_rosen(x):
    assert x.dtype == np.float64
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
start = np.array([-1.2, 1.0, 0.5])
for fun, more in ((jax_rosen, {}), (rosen, {"fprime": rosen_der})):
    x, f, d = fmin_l_bfgs_b(fun, start, factr=10, pgtol=1e-10, **more)
    assert x.dtype == d["grad"].dtype == np.float64
    assert f < 1e-15 and abs(x - 1).max() < 1e-7, (x, f, d)
result = minimize(rosen, start, jac=rosen_der, method=scipy_method, tol=1e-12)
assert abs(result.x - 1).max() < 1e-6 and result.hess_inv.todense().dtype == np.float64
assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == np.float32
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fmin_l_bfgs_b(rosen, start, rosen_der, disp=0)
    scipy_method(rosen, start, jac=rosen_der, iprint=0)
assert [w.filename for w in caught] == ["<string>"] * 2  # the warnings point at the caller
print("fine")
"""


def test_double_precision_where_jax_has_single():
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SINGLE],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "fine", run.stderr


def test_the_callback_sees_double_precision_where_jax_has_single():
    seen = []
    with jax.enable_x64(False):
        x, _, _ = fmin_l_bfgs_b(jax_rosen, START, callback=seen.append)
        assert jnp.ones(1).dtype == np.float32
    assert {point.dtype for point in seen} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(seen[-1], x)
