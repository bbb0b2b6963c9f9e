"""What every part stands on: config, ranks, files, logs. Knows nothing of ads or models."""
