"""Images with masks: files, checks, transforms, loaders."""
