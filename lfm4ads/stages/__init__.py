"""One file a stage: Config and run(config). Stages meet on disk and never import one another."""
