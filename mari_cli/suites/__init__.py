"""Benchmark protocols over the metrics: a data set in, named results out."""
