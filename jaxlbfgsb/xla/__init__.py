"""What XLA makes cheap on a CPU: one kernel for much, few arrays, lanes by themselves."""
