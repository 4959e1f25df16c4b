"""`glmix demo`: train a small network on generated images, save it, and show its results."""

from .. import training as training  # raises MissingExtraError if the extra `train` is not installed
