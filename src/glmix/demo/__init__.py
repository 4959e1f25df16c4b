"""`glmix demo`: train a small network on generated images, save it, and show its results."""
