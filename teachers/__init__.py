"""Floor 3: the teacher's architectures."""
