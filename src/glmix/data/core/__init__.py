"""Data code shared by all tasks: image decoding, sampling, loaders with exact resume, and the base data module."""
