"""Speed of the operators in `kernels` beside what one would write without them; see `__main__`."""
