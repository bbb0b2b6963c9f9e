"""Command lines: ``torchrun -m launch.<stage> configs/<stage>/<name>.yaml key=value ...``."""
