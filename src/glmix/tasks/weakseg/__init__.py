"""From image labels to masks, as a pipeline and as a comparison over seeds."""
