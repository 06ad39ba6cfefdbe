"""The tables of the papers: what they print, how their rows are run here, and both side by side."""
