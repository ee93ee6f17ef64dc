"""The gateway: finds the services through Consul, forwards calls to their instances and answers for all of them."""
