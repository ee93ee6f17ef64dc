"""The graphs of a model that writes over the memory of its caches, on the host or on a GPU: arrays in, arrays out."""
