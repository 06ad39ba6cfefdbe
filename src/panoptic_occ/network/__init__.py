"""The network: the branches wired together, without any framework."""
