"""What every room may use: errors, files, processes, seeds, tables."""
