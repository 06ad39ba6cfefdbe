"""What the thing and the stuff branch tell each other (BANet's feature paths, REFINE's predictions), or nothing."""
