"""Images with masks: files, checks, transforms and data modules. Data modules need the extra `train`."""
