"""Images with masks: files, checks, transforms, loaders. The data modules need the extra `train`."""
