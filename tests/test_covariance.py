"""Covariances and standard errors against the formulas of linear regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import AskTell, minimize, minimize_batch

rng = np.random.default_rng(3)
N = 40
DESIGN = np.column_stack([np.ones(N), rng.standard_normal((N, 3))])
DATA = DESIGN @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.3 * rng.standard_normal(N)


def residual_sum(p, data):
    return jnp.sum((jnp.asarray(DESIGN, p.dtype) @ p - data) ** 2)


def regression(columns, scale):
    """The covariance of ordinary least squares on some columns, zero elsewhere."""
    matrix = np.zeros((4, 4))
    X = DESIGN[:, columns]
    matrix[np.ix_(columns, columns)] = scale * np.linalg.inv(X.T @ X)
    return matrix


def test_of_a_linear_regression(dtype):
    data = DATA.astype(dtype)
    result = minimize(residual_sum, np.zeros(4, dtype), (data,), gtol=1e-3)
    s2 = float(result.fun) / (N - 4)
    matrix = result.covariance(residual_sum, (data,), scale=2 * s2)
    assert matrix.dtype == dtype
    tolerance = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(matrix, regression([0, 1, 2, 3], s2), rtol=tolerance, atol=1e-9)
    errors = result.standard_errors(residual_sum, (data,), scale=2 * s2)
    np.testing.assert_allclose(errors, np.sqrt(np.diagonal(matrix)), rtol=1e-6)
    np.testing.assert_allclose(errors[0] ** 2, s2 / N, rtol=0.2)  # of an offset


def test_variables_on_a_bound_have_none():
    bounds = (np.array([-np.inf, -1.0, -np.inf, -np.inf]), np.array([0.5] + 3 * [np.inf]))
    result = minimize(residual_sum, np.zeros(4), (DATA,), bounds=bounds)
    assert result.active.tolist() == [1, -1, 0, 0]
    exact = result.covariance(residual_sum, (DATA,), scale=2.0)
    np.testing.assert_allclose(exact, regression([2, 3], 1.0), rtol=1e-9, atol=1e-15)
    everywhere = np.linalg.inv(DESIGN.T @ DESIGN)
    assert abs(everywhere[2, 2] / exact[2, 2] - 1) > 1e-3  # it is not a block of this one


CAPPED = np.array([0.5, 9.0, 9.0, 9.0])


def test_the_estimate_is_the_inverse_of_the_free_block_of_the_solvers_matrix():
    result = minimize(residual_sum, np.zeros(4), (DATA,), bounds=(None, CAPPED))
    B = np.linalg.inv(result.hess_inv.todense())
    expected = np.zeros((4, 4))
    expected[1:, 1:] = np.linalg.inv(B[1:, 1:])
    np.testing.assert_allclose(result.covariance(), expected, rtol=1e-8, atol=1e-12)
    exact = result.covariance(residual_sum, (DATA,))
    np.testing.assert_allclose(np.diagonal(result.covariance()), np.diagonal(exact), rtol=1)


def test_of_a_negative_log_likelihood_in_a_pytree():
    counts = np.array([3.0, 1, 7, 12, 30])

    def negative(p):
        eta = p["offset"] + p["slope"][0] * jnp.arange(5)
        return jnp.sum(jnp.exp(eta) - counts * eta), "aux"

    start = {"slope": jnp.zeros(1), "offset": jnp.zeros(())}
    result = minimize(lambda p: negative(p)[0], start)
    errors = result.standard_errors(negative, has_aux=True)
    assert jax.tree.structure(errors) == jax.tree.structure(start)
    X = np.column_stack([np.ones(5), np.arange(5)])  # offset, slope: the order of the keys
    mean = np.exp(X @ np.array([result.x["offset"], result.x["slope"][0]]))
    fisher = X.T @ (mean[:, None] * X)
    matrix = result.covariance(negative, has_aux=True)
    np.testing.assert_allclose(matrix, np.linalg.inv(fisher), rtol=1e-8)
    assert errors["slope"].shape == (1,)
    np.testing.assert_allclose(errors["slope"][0] ** 2, np.linalg.inv(fisher)[1, 1], rtol=1e-8)
    pair = jax.value_and_grad(lambda p: negative(p)[0])
    same = result.covariance(pair, value_and_grad=True)
    np.testing.assert_allclose(same, matrix, rtol=1e-10)


def test_what_the_data_do_not_determine_is_nan():
    def sum_alone(p):
        return (p[0] + p[1] - 1) ** 2 + (p[2] + 1) ** 2

    result = minimize(sum_alone, np.ones(3), bounds=(0, None))
    singular = result.covariance(sum_alone)
    assert result.active.tolist() == [0, 0, -1]
    assert np.isnan(singular[:2, :2]).all()
    assert (singular[2] == 0).all()
    assert np.isnan(result.covariance(lambda p: -p @ p)[0, 0])


def test_of_a_batch_by_vmap():
    many = np.stack([DATA, 2 * DATA])
    result = minimize_batch(residual_sum, np.zeros((2, 4)), (many,))
    with pytest.raises(TypeError, match=r"batch of shape \(2,\); map over it"):
        result.covariance(residual_sum, (many,))
    matrices = jax.vmap(lambda r, d: r.covariance(residual_sum, (d,), scale=2.0))(result, many)
    np.testing.assert_allclose(matrices[1], regression([0, 1, 2, 3], 1.0), rtol=1e-9, atol=1e-15)
    with pytest.raises(ValueError, match="no hess_inv; give the function"):
        jax.tree.map(lambda leaf: leaf[0], result).covariance()


def test_of_double_precision_where_jax_has_single():
    def both(p):
        r = DESIGN @ p - DATA
        return r @ r, 2 * DESIGN.T @ r

    with jax.enable_x64(False):
        solver = AskTell(np.zeros(4))
        while not solver.done:
            solver.tell(*both(solver.ask()))
        result = solver.result()
        exact = result.covariance(lambda p: jnp.sum((DESIGN @ p - DATA) ** 2), scale=2.0)
        estimate = result.covariance()
    assert exact.dtype == estimate.dtype == np.float64
    np.testing.assert_allclose(exact, regression([0, 1, 2, 3], 1.0), rtol=1e-9, atol=1e-12)
