"""The training loop, and the precision, optimiser and checkpoints it needs."""
