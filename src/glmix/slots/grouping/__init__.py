"""How well slots group pixels, as numbers, beside controls."""
