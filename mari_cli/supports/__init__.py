"""Sources of the distribution that the retain data supports at each forget position, one file each."""
