"""From a data set to batches: the data module, workers, samplers, transforms."""
