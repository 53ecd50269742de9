"""What the mathematics must come to, written the slow and obvious way.

Plain NumPy in float64 with the letters of Byrd, Lu, Nocedal and Zhu (1995): dense
matrices, loops over variables, pairs in the order of their age.
"""

import numpy as np
from scipy.linalg import solveh_banded


def random_pairs(rng, n, count, scale=1.0):
    """`count` pairs ``(s, y)``, oldest first, of curvatures that differ from pair to pair."""
    pairs = []
    for _ in range(count):
        s, v = rng.normal(size=(2, n))
        v /= np.linalg.norm(v)
        pairs.append((s, scale * (rng.uniform(0.5, 3, n) * s + 2 * (v @ s) * v)))
    return pairs


def double(*arrays):
    """The same numbers in float64."""
    return tuple(np.asarray(a, np.float64) for a in arrays)


# The box.


def projected_gradient(x, g, l, u):
    """SciPy's definition, one variable at a time."""
    result = np.array(g)
    for i in range(len(x)):
        if g[i] < 0 and np.isfinite(u[i]):
            result[i] = max(x[i] - u[i], g[i])
        elif g[i] > 0 and np.isfinite(l[i]):
            result[i] = min(x[i] - l[i], g[i])
    return result


def breakpoints(x, g, l, u):
    """``t_i`` (4.1), one variable at a time."""
    t = np.full(len(x), np.inf)
    for i in range(len(x)):
        if g[i] < 0 and np.isfinite(u[i]):
            t[i] = (x[i] - u[i]) / g[i]
        elif g[i] > 0 and np.isfinite(l[i]):
            t[i] = (x[i] - l[i]) / g[i]
    return t


def held(x, g, l, u):
    """On a bound, and ``P(x - g)`` is still there."""
    on_bound = (x == l) | (x == u)
    return on_bound & (np.clip(x - g, l, u) == x)


def largest_step(x, d, l, u, cap):
    """The largest feasible step along ``d``, one variable at a time."""
    a = cap
    for i in range(len(x)):
        if d[i] > 0:
            a = min(a, (u[i] - x[i]) / d[i])
        elif d[i] < 0:
            a = min(a, (l[i] - x[i]) / d[i])
    return a


# The matrix.


def newest_theta(pairs):
    if not pairs:
        return 1.0
    s, y = pairs[-1]
    return (y @ y) / (s @ y)


def bfgs_matrix(pairs, n):
    """``B``: one BFGS update of ``theta I`` for each pair, oldest first."""
    B = newest_theta(pairs) * np.eye(n)
    for s, y in pairs:
        Bs = B @ s
        B = B - np.outer(Bs, Bs) / (s @ Bs) + np.outer(y, y) / (s @ y)
    return B


def K_matrix(pairs, free):
    """``K = inv(M) - W'ZZ'W / theta`` of (5.9), rows and columns by age, oldest first."""
    S, Y = (np.array(stack).T for stack in zip(*pairs, strict=True))
    theta = newest_theta(pairs)
    D, L = np.diag(np.diag(S.T @ Y)), np.tril(S.T @ Y, -1)
    inverse_M = np.block([[-D, L.T], [L, theta * S.T @ S]])
    W = np.hstack([Y, theta * S])
    return inverse_M - W[free].T @ W[free] / theta


# The Cauchy point and the subspace.


def cauchy_point(x, g, l, u, B):
    """Walk along ``P(x - t g)`` segment by segment to where the model stops falling.

    As in Algorithm CP breakpoints are crossed one at a time, equal ones by index with
    segments of no length between them; a minimiser at a breakpoint crosses it.
    Returns the point, its ``t``, the free set and the breakpoints (0 where held).
    """
    t = np.where(held(x, g, l, u), 0, breakpoints(x, g, l, u))
    bound = np.where(t == 0, x, np.where(g < 0, u, l))
    free = t > 0
    d = np.where(free, -g, 0)
    Bd = B @ d
    begin = 0.0

    def at(time):
        return np.where(free, np.clip(x - time * g, l, u), bound)

    for b in [*(i for i in np.argsort(t, kind="stable") if 0 < t[i] < np.inf), None]:
        if not d.any():
            break
        slope, curvature = g @ d + (at(begin) - x) @ Bd, d @ Bd
        end = np.inf if b is None else t[b]
        if -slope / curvature < end - begin:
            begin += max(-slope / curvature, 0)
            break
        begin, free[b] = end, False
        Bd = Bd - d[b] * B[b]
        d[b] = 0
    return at(begin), begin, free, t


def subspace_step(x, g, B, xc, free):
    """From ``xc`` to the minimiser of the model over the free variables, no bounds."""
    step = np.zeros(len(x))
    if free.any():
        reduced_gradient = (g + B @ (xc - x))[free]
        step[free] = -np.linalg.solve(B[np.ix_(free, free)], reduced_gradient)
    return step


def truncate(xc, step, l, u):
    """As far along `step` as the box allows (1995).

    The point, and the variable that meets its bound first.
    """
    alpha, first = 1.0, 0
    for i in range(len(xc)):
        if step[i] != 0:
            fraction = ((l if step[i] < 0 else u)[i] - xc[i]) / step[i]
            if fraction < alpha:
                alpha, first = fraction, i
    return np.clip(xc + alpha * step, l, u), first


def into_the_box(x, g, xc, step, l, u, least_slope):
    """The projected end of the step (2011), or the truncated one where that descends too little.

    The point, by how much it descends too little, and, where it is truncated, the variable
    that meets its bound first.
    """
    projected = np.clip(xc + step, l, u)
    excess = g @ (projected - x) - least_slope * min(g @ (xc - x), 0)
    if excess <= 0:
        return projected, excess, None
    truncated, first = truncate(xc, step, l, u)
    return truncated, excess, first


# The line search.


def more_thuente_functions():
    """The six test functions of Moré and Thuente, section 5."""

    def fifth(a, b=0.004):
        return (a + b) ** 5 - 2 * (a + b) ** 4, 5 * (a + b) ** 4 - 8 * (a + b) ** 3

    def wavy(a, b=0.01, l=39):
        if a <= 1 - b:
            value, slope = 1 - a, -1.0
        elif a >= 1 + b:
            value, slope = a - 1, 1.0
        else:
            value, slope = (a - 1) ** 2 / (2 * b) + b / 2, (a - 1) / b
        w = l * np.pi / 2
        return value + (1 - b) / w * np.sin(w * a), slope + (1 - b) * np.cos(w * a)

    def yanai(b1, b2):
        def gamma(b):
            return np.sqrt(1 + b * b) - b

        def phi(a):
            far, near = np.hypot(1 - a, b2), np.hypot(a, b1)
            value = gamma(b1) * far + gamma(b2) * near
            return value, gamma(b1) * (a - 1) / far + gamma(b2) * a / near

        return phi

    return {
        "5.1": lambda a: (-a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2),
        "5.2": fifth,
        "5.3": wavy,
        "5.4 narrow": yanai(0.001, 0.001),
        "5.4 left": yanai(0.01, 0.001),
        "5.4 right": yanai(0.001, 0.01),
    }


# Free sets.


def free_sets(rng, n):
    """None, one, all of the variables, and some."""
    yield np.zeros(n, bool)
    yield np.arange(n) == rng.integers(n)
    yield np.ones(n, bool)
    for share in (0.3, 0.5, 0.8):
        yield rng.random(n) < share


# The derivatives of a solution.


def reduced_solve(H, b, free):
    """``v`` with ``H_FF v_F = b_F``, of least norm, and zeros elsewhere."""
    v = np.zeros(len(b))
    v[free] = np.linalg.lstsq(H[np.ix_(free, free)], b[free], rcond=1e-12)[0]
    return v


def chain_adjoint(x, free):
    """``v`` with ``H_FF v_F = 2 x_F`` for ``sum (x - p)^2 + (x_{i+1} - x_i)^2 + x^4``."""
    links = np.full(len(x), 2.0)
    links[[0, -1]] = 1
    bands = np.zeros((2, len(x)))
    bands[0] = np.where(free, 2 + 2 * links + 12 * x**2, 1)
    bands[1, :-1] = np.where(free[:-1] & free[1:], -2, 0)
    return solveh_banded(bands, np.where(free, 2 * x, 0), lower=True)


def box_quadratic(rng, n):
    """``x'Hx/2 - p'x`` in a box whose solution is known: ``H, p, l, u, x, side``.

    Each variable is fixed, on one of its bounds, or free; bounds that do not hold it are
    finite or not, at random.
    """
    Q = rng.normal(size=(n, n))
    H = Q @ Q.T / n + np.diag(rng.uniform(0.5, 2, n))
    x = rng.normal(size=n)
    fixed = rng.random(n) < 0.15
    side = np.where(fixed, rng.choice([-1, 1], n), rng.integers(-1, 2, n))
    far = [np.where(rng.random(n) < 0.5, np.inf, rng.uniform(0.5, 2, n)) for _ in range(2)]
    l = np.where(fixed | (side < 0), x, x - far[0])
    u = np.where(fixed | (side > 0), x, x + far[1])
    g = -side * rng.uniform(0.1, 1, n)
    return H, H @ x - g, l, u, x, side


def box_quadratic_derivatives(H, x, side):
    """``dx`` in H, p, l and u, one column at a time."""
    n, free = len(x), side == 0

    def moved(dH, dp, dl, du):
        dx = np.where(side < 0, dl, np.where(side > 0, du, 0.0))
        return dx + reduced_solve(H, dp - dH @ x - H @ dx, free)

    zero, none, I = np.zeros(n), np.zeros((n, n)), np.eye(n)
    in_H = np.empty((n, n, n))
    for i in range(n):
        for j in range(n):  # f sees the symmetric part of H
            half = (np.outer(I[i], I[j]) + np.outer(I[j], I[i])) / 2
            in_H[:, i, j] = moved(half, zero, zero, zero)
    return (
        in_H,
        np.stack([moved(none, e, zero, zero) for e in I], axis=1),
        np.stack([moved(none, zero, e, zero) for e in I], axis=1),
        np.stack([moved(none, zero, zero, e) for e in I], axis=1),
    )
