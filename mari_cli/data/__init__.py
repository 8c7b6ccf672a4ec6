"""Corpora: reading, tokenising and batching."""
