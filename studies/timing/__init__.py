"""Benchmarks of the speed and memory numbers in the documentation."""
