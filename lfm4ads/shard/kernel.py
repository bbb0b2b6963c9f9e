"""Where a rank keeps its part of a table, and FBGEMM's words for it."""

from dataclasses import dataclass
from typing import Literal

from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.types import CacheParams

from lfm4ads.core.errors import UserError

KernelKind = Literal["fused", "fused_uvm", "fused_uvm_caching", "key_value"]


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Memory of one table's rows. On CPU all of it is host memory, so one config serves both."""

    kind: KernelKind = "fused"
    """fused: the device's memory. fused_uvm: host memory that the device reads over the bus.
    fused_uvm_caching: host memory, with the rows in use in the device's. key_value: an SSD."""
    cache_ratio: float = 0.0
    """Rows kept in the device's memory by fused_uvm_caching, as a share; 0: TorchRec's own, 0.2."""

    def __post_init__(self) -> None:
        if not 0 <= self.cache_ratio <= 1:
            raise ValueError(f"kernel.cache_ratio must be in [0, 1], got {self.cache_ratio}")
        if self.cache_ratio and self.kind != "fused_uvm_caching":
            raise ValueError(
                f"kernel.cache_ratio is {self.cache_ratio}, but kernel.kind {self.kind} has no"
                " cache; set kind to fused_uvm_caching or leave the ratio out"
            )


def check_kernel(config: KernelConfig, *, table: str) -> None:
    """Refuse kernels that cannot train here.

    Raises:
        UserError: the table is to live on an SSD.
    """
    if config.kind == "key_value":
        # FBGEMM's SSD kernel needs CUDA, draws its own first values and has no view of its rows,
        # through which ours are written and checkpoints are saved.
        raise UserError(
            f"table {table} has kernel key_value, which does not run on CPU and which checkpoints"
            " do not cover; use fused_uvm_caching and more ranks",
            everywhere=True,
        )


def compute_kernel(config: KernelConfig) -> str:
    """Return TorchRec's name of the kernel."""
    return EmbeddingComputeKernel(config.kind).value


def cache_params(config: KernelConfig) -> CacheParams | None:
    """Return TorchRec's words for the cache; None keeps its own."""
    return CacheParams(load_factor=config.cache_ratio) if config.cache_ratio else None
