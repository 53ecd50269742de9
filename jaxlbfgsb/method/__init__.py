"""The paper: one module for each part of the method, on raveled vectors alone."""
