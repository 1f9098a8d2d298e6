"""How buffers, samples and data sets show themselves in a notebook: by shapes and a few numbers, never the ring."""
