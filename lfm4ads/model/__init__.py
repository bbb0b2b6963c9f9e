"""Whole models: nn blocks and the frozen Config dataclass that describes them."""
