"""One module per kind of cluster: its name is the kind, its class `Settings` the keys of its YAML file."""
