"""`make gpu-check`: every bundle on the GPU beside the CPU."""
