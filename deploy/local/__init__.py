"""What `make run` and `make stop` run: Consul, services and gateway on one machine; also `trivium ps` and `stop`."""
