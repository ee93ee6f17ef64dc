"""What `make run` runs: Consul, services and gateway on one machine, supervised; and `trivium ps`, `trivium stop`."""
