"""TOML and crontab files to a frozen Config."""
