"""What can be sampled: a buffer, some of its rows, and several buffers as one."""
