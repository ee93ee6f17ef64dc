"""The services of Trivium and the kit they share."""
