"""The cost of a computation in bytes and floating-point operations, and the limits of devices."""
