"""Floor 2: the vocabulary of transfer, from schema to training module; it names no concrete model."""
