"""Images with objects: COCO's JSON, checks, transforms, loaders."""
