"""What the retain data supports at each forget position, by whom it is said: one file for each source."""
