"""Single-device modules: no ranks, no config object."""
