"""Correctness checks and measurements on a GPU: `python -m studies.gpu`, or `make gpu`."""
