"""Pure functions on tensors that several rooms need."""
