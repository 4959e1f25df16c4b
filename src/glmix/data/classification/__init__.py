"""Labelled images in folders, tar files, WebDataset shards and Hugging Face data sets. Needs the extra `train`."""
