"""Floor 3: the channels that have parameters of their own: heads, adapters, encoders, sharing."""
