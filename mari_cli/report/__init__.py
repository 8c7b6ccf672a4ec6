"""Reports: result files in, tables, plots and HTML out, without a model and without torch."""
