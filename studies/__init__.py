"""Experiments and benchmarks behind the numbers and figures of the documentation; not part of the package."""
