"""What all tasks share: image decoding, sampling, loaders that resume exactly, and the base data module."""
