"""Servers of PostgreSQL and Prefect for the demo and the tests: started, watched, ended."""
