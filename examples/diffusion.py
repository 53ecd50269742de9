"""Thousands of bounded exponential fits at once: tissue, fibres and fluid in a brain.

In diffusion MRI the signal of a voxel decays with the weighting b, slowest across nerve fibres.
The image is measured, 6 x 10 x 10 voxels with 102 values each along directions g, from dipy
(BSD licence).  The model, after Behrens et al. (2007), has four parts, none negative: tissue
``exp(-b d)``, two bundles of fibres ``exp(-b d (g.n)^2)`` along n1 and n2, and fluid
``exp(-3 b)``, where 3 um^2/ms is free water, which d does not exceed.

Each voxel is fitted from six random pairs of directions, and the best is kept, since there is
more than one minimum.  Then come error bars: each voxel is fitted again to six resamples, its
curve plus its residuals drawn anew (the residual bootstrap).
"""

import time
from importlib.resources import files

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
from rich import print
from rich.table import Table
from scipy.optimize import least_squares

from jaxlbfgsb import minimize_batch

FOLDER = files("dipy") / "data" / "files"
B, G = (np.loadtxt(FOLDER / f"small_101D.{kind}") for kind in ("bval", "bvec"))
B, WATER, EACH = B / 1000, 3.0, 6
# tissue, two bundles, fluid; d; n1 and n2, of any length
START = np.r_[0.5, 0.2, 0.2, 0.1, 1.0, 6 * [0.0]]
BOUNDS = np.r_[0, 0, 0, 0, 0.1, 6 * [-np.inf]], np.r_[4 * [np.inf], WATER, 6 * [np.inf]]
ROWS = {"tissue": [0], "fibres": [1, 2], "fluid": [3], "d, um^2/ms": [4]}


def signal(p):
    axes = p[5:].reshape(2, 3)
    cosines = (axes @ G).T / jnp.linalg.norm(axes, axis=1)
    tissue, fluid = jnp.exp(-B * p[4]), jnp.exp(-B * WATER)
    return p[0] * tissue + jnp.exp(-B[:, None] * p[4] * cosines**2) @ p[1:3] + p[3] * fluid


def negative_log_likelihood(p, y):
    return len(B) / 2 * jnp.log(jnp.sum((signal(p) - y) ** 2))


def fit(starts, y):
    """A lane for each start and signal, shared bounds; all again as (voxels, EACH, ...)."""
    result = minimize_batch(
        negative_log_likelihood, starts, (y,), in_axes=(0, 0, None), bounds=BOUNDS
    )
    fun, x = (np.asarray(a).reshape(-1, EACH, *a.shape[1:]) for a in (result.fun, result.x))
    return fun, x, int(result.success.sum())


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    image = nibabel.load(FOLDER / "small_101D.nii.gz").get_fdata().reshape(-1, len(B))
    y = image / image[:, :1]
    voxels, rng = np.arange(len(y)), np.random.default_rng(0)
    began = time.perf_counter()
    starts = np.tile(START, (len(y) * EACH, 1))
    starts[:, 5:] = rng.normal(size=(len(starts), 6))
    fun, tries, converged = fit(starts, np.repeat(y, EACH, axis=0))
    x = tries[voxels, fun.argmin(axis=1)]
    curves = np.asarray(jax.vmap(signal)(x))
    drawn = rng.integers(len(B), size=(len(y), EACH * len(B)))
    residuals = np.take_along_axis(y - curves, drawn, axis=1).reshape(-1, len(B))
    _, again, more = fit(np.repeat(x, EACH, axis=0), np.repeat(curves, EACH, axis=0) + residuals)
    seconds = time.perf_counter() - began

    table = Table("", "5 %", "median", "95 %", "error, median")
    for name, columns in ROWS.items():
        value, resampled = x[:, columns].sum(-1), again[..., columns].sum(-1)
        error = np.median(resampled.std(axis=1, ddof=1))
        row = (f"{v:.3f}" for v in (*np.quantile(value, [0.05, 0.5, 0.95]), error))
        table.add_row(name, *row)
    print(table)
    print(f"{2 * len(starts)} fits in {seconds:.1f} s, compilation and all;", end=" ")
    print(f"{converged + more} converged; fluid is on its bound 0 in {sum(x[:, 3] == 0)} voxels")
    assert converged + more > 1.98 * len(starts)
    # No bound asks for it, but at b = 0 the parts add up to the whole signal, which is 1.
    assert np.all(np.abs(x[:, :4].sum(axis=1) - 1) < 0.2)
    # Fluid is bright at b = 0, which the fits do not see: y is divided by it.
    assert np.median(x[np.argsort(image[:, 0])[-30:], 3]) > 5 * np.median(x[:, 3])
    # From some of these solutions SciPy's least squares get nowhere lower.
    for k in voxels[::60]:
        peer = least_squares(lambda p, k=k: signal(p) - y[k], x[k], bounds=BOUNDS)
        assert fun[k].min() < negative_log_likelihood(peer.x, y[k]) + 1e-4


if __name__ == "__main__":
    main()
