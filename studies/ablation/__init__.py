"""Ablation study of the paper's design choices on scenes."""
