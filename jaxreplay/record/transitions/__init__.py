"""Recording the steps of environments into a buffer."""
