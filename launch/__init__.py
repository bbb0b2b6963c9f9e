"""Command lines: ``python -m launch.<stage> configs/<stage>/<name>.yaml key=value ...``.

On several ranks: ``python -m launch.ranks`` or ``torchrun`` with ``-m launch.<stage> ...``.
"""
