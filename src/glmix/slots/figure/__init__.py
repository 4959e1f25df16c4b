"""The paper's figure of slots."""
