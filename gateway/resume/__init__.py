"""What outlives its instance: streams whose state the service hands out, and sequences whose state is kept here."""
