"""SciPy's own tests of L-BFGS-B, run with SciPy's solver and with ours: see `__main__`."""
