"""What the commands do, from a checked configuration to files."""
