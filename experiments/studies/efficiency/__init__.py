"""The efficiency study: where every factor of speed comes from, up to FLOPs per second on real lengths."""
