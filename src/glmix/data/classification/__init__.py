"""Images with labels: folders, tar files, WebDataset shards and Hugging Face data sets. Data modules need `train`."""
