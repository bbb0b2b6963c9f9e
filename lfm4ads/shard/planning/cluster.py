"""A described cluster and the work of one training step on it: what ``plan`` is told."""

from dataclasses import dataclass
from typing import Literal

GIB = 1024**3

SparseState = Literal["rowwise_adagrad", "adagrad", "adam", "sgd"]
Precision = Literal["fp32", "fp16"]


def bytes_of(precision: Precision) -> int:
    """Return the bytes of one number."""
    return 4 if precision == "fp32" else 2


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Equal nodes of equal accelerators; rates are what a kernel reaches, not the brochure's."""

    nodes: int
    gpus_per_node: int = 8
    hbm_gib: float = 80.0
    """Memory of one accelerator."""
    host_gib: float = 1024.0
    """Memory of one node."""
    reserve_ratio: float = 0.15
    """Share of either memory that is left to the driver, NCCL, fragments and the input pipeline."""
    hbm_gb_per_second: float = 1300.0
    intra_node_gb_per_second: float = 250.0
    """One accelerator to the others of its node, one way."""
    inter_node_gb_per_second: float = 20.0
    """One accelerator to other nodes, one way."""
    host_link_gb_per_second: float = 20.0
    """One accelerator to the memory of its node, one way."""
    dense_tflops: float = 60.0
    """Of one accelerator in the dense layers."""
    collective_seconds: float = 50e-6
    """What an exchange costs before its first byte."""

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus_per_node < 1:
            raise ValueError(
                "cluster.nodes and cluster.gpus_per_node must be at least 1 (their product is the"
                f" number of ranks), got {self.nodes} and {self.gpus_per_node}"
            )
        if not 0 <= self.reserve_ratio < 1:
            raise ValueError(f"cluster.reserve_ratio must be in [0, 1), got {self.reserve_ratio}")
        if self.host_gib < 0 or self.collective_seconds < 0:
            raise ValueError(
                "cluster.host_gib and cluster.collective_seconds must not be negative, got"
                f" {self.host_gib} and {self.collective_seconds}"
            )
        for name in (
            "hbm_gib",
            "hbm_gb_per_second",
            "intra_node_gb_per_second",
            "inter_node_gb_per_second",
            "host_link_gb_per_second",
            "dense_tflops",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"cluster.{name} must be positive, got {getattr(self, name)}")

    @property
    def ranks(self) -> int:
        """Return the number of accelerators, one rank each."""
        return self.nodes * self.gpus_per_node

    @property
    def hbm_limit_bytes(self) -> float:
        """Return what a rank may fill of its accelerator."""
        return self.hbm_gib * GIB * (1 - self.reserve_ratio)

    @property
    def host_limit_bytes(self) -> float:
        """Return a rank's equal share of what its node may fill."""
        return self.host_gib * GIB * (1 - self.reserve_ratio) / self.gpus_per_node

    @property
    def seconds_per_exchanged_byte(self) -> float:
        """Return the cost of a byte of an all-to-all; both networks work at the same time."""
        near, far = self.gpus_per_node - 1, self.ranks - self.gpus_per_node
        return max(
            near / self.ranks / (self.intra_node_gb_per_second * 1e9),
            far / self.ranks / (self.inter_node_gb_per_second * 1e9),
        )

    @property
    def seconds_per_node_summed_byte(self) -> float:
        """Return the cost of a byte that is first summed inside a node, then sent to the others."""
        size = self.gpus_per_node
        near = (size - 1) / size / (self.intra_node_gb_per_second * 1e9)
        far = (self.nodes - 1) / self.nodes / size / (self.inter_node_gb_per_second * 1e9)
        return near + far

    @property
    def seconds_per_reduced_byte(self) -> float:
        """Return the cost of a byte of a ring all-reduce over all accelerators of all nodes."""
        rounds = 2 * (self.ranks - 1) / self.ranks
        far = self.gpus_per_node * self.inter_node_gb_per_second * 1e9
        near = self.intra_node_gb_per_second * 1e9
        return rounds / (min(near, far) if self.nodes > 1 else near)


@dataclass(frozen=True, kw_only=True)
class WorkloadConfig:
    """One step of training, whatever the tables are."""

    batch_size: int = 4096
    """Rows of one rank in one step."""
    sparse_kind: SparseState = "rowwise_adagrad"
    table_precision: Precision = "fp32"
    output_precision: Precision = "fp32"
    """Of looked-up vectors and their gradients, in memory and between ranks."""
    dense_parameters: int = 10_000_000
    """Numbers that every rank holds besides the tables."""
    dense_flops_per_row: float = 0.0
    """Of a forward pass; 0: two for each dense parameter."""
    activation_bytes_per_row: int = 0
    """What the dense layers keep for their backward pass."""
    batches_in_flight: int = 1
    """Input batches on the accelerator at a time: 1 in the plain loop, 3 in a pipelined one."""
    id_bytes: int = 8

    def __post_init__(self) -> None:
        for name in ("batch_size", "batches_in_flight", "id_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"workload.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dense_parameters", "dense_flops_per_row", "activation_bytes_per_row"):
            if getattr(self, name) < 0:
                raise ValueError(f"workload.{name} must not be negative, got {getattr(self, name)}")

    @property
    def flops_per_row(self) -> float:
        """Return the work of forward and backward, which costs twice the forward."""
        return 3 * (self.dense_flops_per_row or 2.0 * self.dense_parameters)

    @property
    def state_bytes_per_row(self) -> float:
        """Return the bytes the sparse optimiser keeps for a row, however wide it is."""
        return 4.0 if self.sparse_kind == "rowwise_adagrad" else 0.0

    @property
    def state_bytes_per_number(self) -> float:
        """Return the bytes the sparse optimiser keeps for each number of a row."""
        match self.sparse_kind:
            case "adagrad":
                return 4.0
            case "adam":
                return 8.0
            case _:
                return 0.0
