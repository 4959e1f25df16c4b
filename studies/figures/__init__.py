"""Scripts that plot figures of the documentation from finished training runs."""
