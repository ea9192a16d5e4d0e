"""From bytes to values, in bounds: JSON, TOML and YAML."""
