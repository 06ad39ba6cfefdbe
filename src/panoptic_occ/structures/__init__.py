"""The data that crosses borders: masks, categories, instances, relations, samples."""
