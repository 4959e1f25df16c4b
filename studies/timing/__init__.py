"""Scripts that measure what the documentation states about speed and memory."""
