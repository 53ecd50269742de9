"""Measurements: speed, memory, first calls and fidelity.  ``python -m benchmarks --list``."""

import os

# Before NumPy is imported: SciPy's small solves are slow on more threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
