"""The annotated order of a data set: computed once, cached, counted."""
