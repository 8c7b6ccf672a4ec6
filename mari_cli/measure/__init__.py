"""What a piece of work costs: bytes alive at one time, floating-point operations, and what devices offer."""
