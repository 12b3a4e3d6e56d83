"""The PostgreSQL driver: source and target."""
