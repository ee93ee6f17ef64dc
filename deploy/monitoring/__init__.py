"""What is generated for Prometheus and Grafana: `python -m deploy.monitoring`."""
