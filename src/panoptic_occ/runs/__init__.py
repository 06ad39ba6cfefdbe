"""What a run leaves behind: its folder, the keys in the names, weight files, and what is done already."""
