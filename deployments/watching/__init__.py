"""What jobs are doing: read from Prefect, for people, scripts, Prometheus and other flows."""
