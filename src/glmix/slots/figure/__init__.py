"""Static figures of slot maps."""
