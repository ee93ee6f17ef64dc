"""A fourth service: one folder and one proto, and no line about it anywhere else."""
