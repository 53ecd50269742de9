"""jaxopt's own tests of L-BFGS-B, run with our class: see `__main__`."""
