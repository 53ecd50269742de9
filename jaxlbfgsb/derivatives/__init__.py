"""Derivatives of a solution, whatever solver found it."""
