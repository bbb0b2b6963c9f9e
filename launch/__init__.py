"""Command lines of the stages: `torchrun -m launch.<stage> configs/<stage>/<name>.yaml key=value ...`."""
