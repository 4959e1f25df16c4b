"""Detection data in the COCO format: files, checks, transforms and data modules, which need the extra `train`."""
