"""TOML and crontabs → one frozen ``Config``. Import from the modules; this package imports nothing by itself.

- :mod:`~echosched.config.paths`: where everything lies (light: ``status`` pays for it);
- :mod:`~echosched.config.daemon_settings`: the ``[daemon]`` table alone (light: the launcher pays for it);
- :mod:`~echosched.config.load`: everything, with all problems collected;
- :mod:`~echosched.config.crontab`: crontab files as they are; :mod:`~echosched.config.crontab_import`: as TOML;
- :mod:`~echosched.config.secrets`: ``${env:…}``, ``${file:…}``, ``${credential:…}``.
"""
