"""Benchmarks: the commands behind the numbers in docs/."""
