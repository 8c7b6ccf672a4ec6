"""Benchmark protocols: a data set in, named results of metrics out."""
