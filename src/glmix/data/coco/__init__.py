"""Images with objects: COCO's JSON, checks, transforms, loaders. The data modules need the extra `train`."""
