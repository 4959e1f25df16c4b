"""Images with boxes and masks in COCO's format: files, checks, transforms and data modules (extra `train`)."""
