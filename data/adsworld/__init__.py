"""The built-in ads world: a simulator in which the best possible AUC is known."""
