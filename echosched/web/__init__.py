"""REST API, dashboard, metrics and health."""
