"""What is measured: functions of tensors or strings, each with unit, direction and degenerate value."""
