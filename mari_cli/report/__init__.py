"""Result files in, tables, plots and HTML out: no model, no torch."""
