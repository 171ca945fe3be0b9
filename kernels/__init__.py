"""Floor 1: one folder per op, its definition in `reference.py`, fast versions behind one function."""
