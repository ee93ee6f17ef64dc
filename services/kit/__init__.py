"""What every process shares; it knows no service by name."""
