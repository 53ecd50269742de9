"""The quick part of SciPy's own tests of L-BFGS-B, with ours in the place of its solver.

All of them: ``python -m tests.scipy_suite``.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ["test_optimize.py", "test_lbfgsb_hessinv.py", "test_lbfgsb_setulb.py"]
CHOSEN = "bfgs and not test_1 or overwritten"  # test_1 compiles for 15 sizes of the memory


def test_the_quick_part_of_scipys_tests_passes():
    # A process of its own: the solver is swapped in all of scipy.optimize.
    run = subprocess.run(
        [sys.executable, "-m", "tests.scipy_suite", "-k", CHOSEN, "--files", *FILES],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    number = re.search(r"of these pass with jaxlbfgsb +(\d+)", run.stdout)
    assert number is not None, run.stdout
    assert int(number[1]) >= 50
