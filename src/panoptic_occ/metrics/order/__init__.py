"""How right and how decided an order is."""
