"""`make bench`: what a call costs on a service, through the gateway and on the bare engine; tests/bench/README.md."""
