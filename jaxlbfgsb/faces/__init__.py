"""Faces for other manners and other ecosystems: ask and tell, SciPy, jaxopt, optax."""
