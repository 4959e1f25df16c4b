"""Scripts that draw figures of the documentation from finished runs."""
