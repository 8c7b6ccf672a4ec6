"""Sources of support, one file each: who says what the retain data supports at a forget position."""
