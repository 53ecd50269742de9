"""The picture of the README: ``python docs/images/readme.py`` (needs matplotlib).

Left, the iterates of a bounded run; right, times from ``benchmarks/results/batch.json``.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jaxlbfgsb import minimize

ROOT = Path(__file__).parent.parent.parent
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9a9a9a"
STYLE = {"font.size": 17, "svg.hashsalt": "jaxlbfgsb", "axes.titlesize": 18}
LOWER, UPPER = np.array([-1.5, -0.5]), np.array([0.6, 1.5])


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def draw_run(axes):
    start = jnp.array([-1.2, 1.0])
    path = [start]
    result = minimize(rosenbrock, start, bounds=(LOWER, UPPER), callback=path.append)
    u, v = np.meshgrid(np.linspace(-1.7, 1.3, 150), np.linspace(-0.7, 1.7, 150))
    height = np.log10(1e-3 + np.vectorize(lambda a, b: float(rosenbrock((a, b))))(u, v))
    axes.contour(u, v, height, 14, cmap="Greys", linewidths=1.2)
    outside = (u < LOWER[0]) | (u > UPPER[0]) | (v < LOWER[1]) | (v > UPPER[1])
    axes.contourf(u, v, outside, [0.5, 1.5], colors=["#dddddd"], alpha=0.85)
    axes.add_patch(plt.Rectangle(LOWER, *(UPPER - LOWER), fill=False, lw=2.5))
    axes.plot(*np.array(path).T, "o-", color=BLUE, lw=3, ms=8)
    axes.plot(*result.x, "*", color=ORANGE, ms=26, markeredgecolor="white", zorder=5)
    axes.annotate("start", path[0], (-6, 12), textcoords="offset points", color=BLUE)
    axes.annotate("x on its\nbound", result.x, (16, -18), textcoords="offset points", color=ORANGE)
    axes.plot(1, 1, "x", color="black", ms=11, mew=3)
    axes.annotate("minimum\nwithout\nbounds", (1, 1), (-28, 14), textcoords="offset points")
    title = f"bounds are met exactly, never crossed: {result.nit} iterations"
    axes.set(xticks=[], yticks=[], title=title)


def draw_times(axes):
    record = json.loads((ROOT / "benchmarks" / "results" / "batch.json").read_text())
    rows = [row for row in record["rows"] if (row["n"], row["B"]) == (10, 1000)]
    times = {row["solver"]: row["us_per_problem"] for row in rows if row.get("us_per_problem")}
    names = sorted(times, key=times.get, reverse=True)
    ours = {name: "minimize" in name for name in names}
    bars = axes.barh(names, [times[name] for name in names])
    for name, bar in zip(names, bars, strict=True):
        bar.set_color(BLUE if ours[name] else GREY)
        axes.annotate(
            f" {times[name]:,.0f} µs",
            (times[name], bar.get_y() + bar.get_height() / 2),
            va="center",
            fontweight="bold" if ours[name] else "normal",
        )
    axes.set(
        xlim=(0, 1.3 * max(times.values())),
        xticks=[],
        title="time of a fit in 10 variables, out of 1000",
    )
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def main():
    jax.config.update("jax_enable_x64", True)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(15, 5.4), width_ratios=[1, 0.85])
        draw_run(left)
        draw_times(right)
        figure.tight_layout()
        figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
