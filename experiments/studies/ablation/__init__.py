"""The ablation: a full model against itself without one part, and against tuned peers."""
