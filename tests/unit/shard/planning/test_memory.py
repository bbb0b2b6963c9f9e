"""The formulas of memory and time against tensors that FBGEMM really allocates, and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import (
    KINDS,
    RuleConfig,
    TableGroup,
    apply_rules,
    describe_groups,
)
from lfm4ads.shard.planning.estimate import DENSE_BYTES, base_bytes
from lfm4ads.shard.planning.pieces import Cut, largest_pieces, measure_memory, measure_seconds
from lfm4ads.shard.planning.planner import SearchConfig, plan_cluster

ALONE = ClusterConfig(nodes=1, gpus_per_node=1)
CLUSTER = ClusterConfig(nodes=2, gpus_per_node=4)
FBGEMM = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
}


def bytes_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def two_tables():
    return describe_groups(
        {"wide": TableGroup(rows=1000, dim=32), "narrow": TableGroup(rows=300, dim=8)}
    )


def piece_of(tables, kind, *, cluster, parts=1, on_host=False):
    size = len(tables)
    cut = Cut(np.full(size, KINDS.index(kind)), np.full(size, parts), np.full(size, on_host))
    return cut, largest_pieces(tables, table_S=np.arange(size), cut=cut, cluster=cluster)


@pytest.mark.parametrize("kind", FBGEMM)
def test_weights_and_state_are_what_fbgemm_allocates(kind):
    tables, workload = two_tables(), WorkloadConfig(sparse_kind=kind, batch_size=8)
    plan = plan_cluster(tables, workload=workload, cluster=ALONE, search=SearchConfig())
    bags = SplitTableBatchedEmbeddingBagsCodegen(
        embedding_specs=[
            (int(rows), int(dim), EmbeddingLocation.HOST, ComputeDevice.CPU)
            for rows, dim in zip(tables.rows_T, tables.dim_T, strict=True)
        ],
        optimizer=FBGEMM[kind],
    )
    states = [state for table in bags.split_optimizer_states() for state in table]
    assert plan.estimate.memory["weights"][0] == bytes_of(bags.split_embedding_weights())
    assert plan.estimate.memory["optimizer"][0] == bytes_of(states)


def test_adam_keeps_two_numbers_for_each():
    """FBGEMM's Adam has no kernel on CPU, so torch's stands in for it."""
    table = torch.zeros(300, 8, requires_grad=True)
    table.grad = torch.ones_like(table)
    adam = torch.optim.Adam([table])
    adam.step()
    moments = [adam.state[table][name] for name in ("exp_avg", "exp_avg_sq")]
    tables = describe_groups({"narrow": TableGroup(rows=300, dim=8)})
    _, piece = piece_of(tables, "table_wise", cluster=ALONE)
    workload = WorkloadConfig(sparse_kind="adam")
    memory = measure_memory(tables, piece, workload=workload, cluster=ALONE)
    assert memory.optimizer[0] == bytes_of(moments)


def test_dense_part_is_weights_gradients_ddp_and_adamw():
    layer = torch.nn.Linear(30, 20)
    layer(torch.ones(1, 30)).sum().backward()
    adam = torch.optim.AdamW(layer.parameters())
    adam.step()
    moments = [state[name] for state in adam.state.values() for name in ("exp_avg", "exp_avg_sq")]
    weights, gradients = list(layer.parameters()), [p.grad for p in layer.parameters()]
    held = bytes_of(weights) + 2 * bytes_of(gradients) + bytes_of(moments)
    assert sum(p.numel() for p in weights) * DENSE_BYTES == held


def test_pieces_of_every_kind_by_hand():
    """1,000 rows x 32 on 2 nodes of 4, batches of 8 x 3 ids: bytes worked out on paper."""
    tables = describe_groups({"wide": TableGroup(rows=1000, dim=32, pooling=3)})
    workload = WorkloadConfig(batch_size=8)
    every, own = 8 * 8, 8
    ids = {
        "table_wise": every * 3 + every,
        "column_wise": every * 3 + every,
        "table_row_wise": every * 3 / 4 + every,
        "row_wise": every * 3 / 8 + every,
        "data_parallel": own * 3 + own,
    }
    rows = {"table_row_wise": 250, "row_wise": 125}
    for kind, number in ids.items():
        width = 16 if kind == "column_wise" else 32
        _, piece = piece_of(tables, kind, cluster=CLUSTER, parts=2 if kind == "column_wise" else 1)
        memory = measure_memory(tables, piece, workload=workload, cluster=CLUSTER)
        bags = own if kind == "data_parallel" else every
        table = rows.get(kind, 1000) * width * 4
        assert memory.weights[0] == table
        assert memory.optimizer[0] == rows.get(kind, 1000) * 4
        assert memory.input_ids[0] == pytest.approx(number * 8)
        assert memory.activations[0] == bags * width * 4
        dense = table if kind == "data_parallel" else 0
        assert memory.gradients[0] == bags * width * 4 + dense
        assert memory.host[0] == 0


def test_lookups_id_by_id_give_a_vector_for_every_id():
    groups = {"bag": TableGroup(rows=1000, dim=32, pooling=3)}
    ids = {"ids": replace(groups["bag"], unpooled=True)}
    workload = WorkloadConfig(batch_size=8)
    sums, each = (
        measure_memory(
            tables,
            piece_of(tables, "table_wise", cluster=CLUSTER)[1],
            workload=workload,
            cluster=CLUSTER,
        )
        for tables in (describe_groups(groups), describe_groups(ids))
    )
    assert each.activations[0] == 3 * sums.activations[0]
    assert each.input_ids[0] == sums.input_ids[0]


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad"])
def test_a_table_on_the_host_leaves_its_cache_and_row_state_in_hbm(kind):
    rules = {"*": RuleConfig(kernels=("fused_uvm_caching",), cache_ratio=0.1)}
    tables = apply_rules(describe_groups({"wide": TableGroup(rows=1000, dim=32)}), rules=rules)
    _, piece = piece_of(tables, "table_wise", cluster=CLUSTER, on_host=True)
    workload = WorkloadConfig(sparse_kind=kind)
    memory = measure_memory(tables, piece, workload=workload, cluster=CLUSTER)
    assert memory.weights[0] == 100 * (32 * 4 + 16) + 1000 * 4
    by_row = kind == "rowwise_adagrad"
    assert memory.optimizer[0] == (1000 * 4 if by_row else 0)
    assert memory.host[0] == 1000 * 32 * 4 * (1 if by_row else 2)


def test_half_precision_halves_weights_and_not_the_state():
    tables = two_tables()
    _, piece = piece_of(tables, "table_wise", cluster=CLUSTER)
    full, half = (
        measure_memory(
            tables, piece, workload=WorkloadConfig(table_precision=precision), cluster=CLUSTER
        )
        for precision in ("fp32", "fp16")
    )
    assert (half.weights * 2 == full.weights).all()
    assert (half.optimizer == full.optimizer).all()


def test_what_every_rank_holds_besides_pieces():
    tables = two_tables()
    cut, _ = piece_of(tables, "table_wise", cluster=CLUSTER)
    workload = WorkloadConfig(batch_size=8, dense_parameters=100, activation_bytes_per_row=5)
    received, ids = 8 * (32 + 8) * 4, 8 * 2 * 2 * 8
    expected = 4 * received + 8 * 5 + ids + 100 * DENSE_BYTES
    assert base_bytes(tables, cut=cut, workload=workload) == expected


def test_exchange_seconds_by_hand():
    """2 nodes of 4: of a byte 3/8 stay in the node and 4/8 leave it, at the same time."""
    tables = describe_groups({"wide": TableGroup(rows=1000, dim=32)})
    _, piece = piece_of(tables, "table_wise", cluster=CLUSTER)
    workload = WorkloadConfig(batch_size=8)
    seconds = measure_seconds(tables, piece, workload=workload, cluster=CLUSTER)
    sent = 8 * 8 * 32 * 4
    assert seconds.output_exchange[0] == pytest.approx(sent * 4 / 8 / 20e9)
    assert seconds.gradient_exchange[0] == seconds.output_exchange[0]
    assert seconds.input_exchange[0] == pytest.approx(8 * 8 * 2 * 8 * 4 / 8 / 20e9)
    one = replace(CLUSTER, nodes=1)
    inside = measure_seconds(tables, piece, workload=workload, cluster=one)
    assert inside.output_exchange[0] == pytest.approx(4 * 8 * 32 * 4 * 3 / 4 / 250e9)
    alone = measure_seconds(tables, piece, workload=workload, cluster=ALONE)
    assert alone.output_exchange[0] == 0


def test_a_miss_of_the_cache_costs_the_bus_twice():
    tables = describe_groups({"wide": TableGroup(rows=100_000, dim=32)})
    rules = {"*": RuleConfig(kernels=("fused_uvm_caching",), cache_hit_ratio=0.75)}
    tables = apply_rules(tables, rules=rules)
    workload = WorkloadConfig(batch_size=1000)
    near, far = (
        measure_seconds(
            tables,
            piece_of(tables, "table_wise", cluster=ALONE, on_host=on_host)[1],
            workload=workload,
            cluster=ALONE,
        )
        for on_host in (False, True)
    )
    bus = 1000 * 0.25 * 32 * 4 / 20e9
    assert far.lookup[0] - near.lookup[0] == pytest.approx(bus)
    assert far.update[0] - near.update[0] == pytest.approx(bus)
