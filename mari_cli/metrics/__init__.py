"""Metrics: functions of tensors or strings, each with its unit, direction and degenerate value."""
