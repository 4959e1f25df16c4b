"""Seeds of masks from image labels, what slots make of them, and the baselines."""
