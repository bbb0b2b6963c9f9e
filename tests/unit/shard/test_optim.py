"""The update rules of tables, against FBGEMM's own kernels and against their formulas."""

import numpy as np
import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from lfm4ads.shard.optim import OptimConfig, TableOptimizer, fused_params

ROWS, DIM = 20, 8
KINDS = ["rowwise_adagrad", "adagrad", "sgd"]


def bags(step):
    """Ids with repeats in and across bags; rows 15 and up are never seen."""
    generator = np.random.default_rng(step)
    return [generator.integers(0, 15, length).tolist() for length in (3, 0, 5, 1, 4)]


def factors(step):
    return torch.from_numpy(np.random.default_rng(100 + step).normal(size=(5, DIM))).float()


def table_steps(config, first, steps):
    """Move a table with dense gradients."""
    table = torch.nn.Parameter(first.clone())
    optimizer = TableOptimizer([table], config=config)
    for step in range(steps):
        optimizer.zero_grad()
        sums = torch.stack(
            [table[torch.tensor(bag, dtype=torch.int64)].sum(0) for bag in bags(step)]
        )
        (sums * factors(step)).sum().backward()
        optimizer.step()
    return table.detach()


def fused_steps(config, first, steps):
    """Move the same table with FBGEMM's fused kernel."""
    fused = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)], **fused_params(config)
    )
    (weights,) = fused.split_embedding_weights()
    weights.copy_(first)
    for step in range(steps):
        values = torch.tensor([value for bag in bags(step) for value in bag])
        offsets = torch.tensor([0, *np.cumsum([len(bag) for bag in bags(step)])])
        (fused(values, offsets) * factors(step)).sum().backward()
    return weights


def formula_steps(config, first, steps):
    """Move it by the textbook, in float64, row by row."""
    table, sums = first.double().numpy().copy(), np.zeros((ROWS, DIM))
    for step in range(steps):
        gradient = np.zeros((ROWS, DIM))
        for bag, factor in zip(bags(step), factors(step).double().numpy(), strict=True):
            limit = config.sparse_clip or np.inf
            for value in bag:
                gradient[value] += np.clip(factor, -limit, limit)
        for row in range(ROWS):
            squared = gradient[row] ** 2
            if config.sparse_kind == "rowwise_adagrad":
                squared = np.full(DIM, squared.mean())
            sums[row] += squared
            scale = 1.0 if config.sparse_kind == "sgd" else np.sqrt(sums[row]) + 1e-8
            table[row] -= config.sparse_lr * gradient[row] / scale
    return torch.from_numpy(table).float()


@pytest.mark.parametrize("kind", KINDS)
def test_dense_gradients_fused_kernels_and_formulas_agree(kind):
    torch.manual_seed(0)
    config, first = OptimConfig(sparse_kind=kind, sparse_lr=0.1), torch.randn(ROWS, DIM)
    wanted = formula_steps(config, first, 10)
    torch.testing.assert_close(table_steps(config, first, 10), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fused_steps(config, first, 10), wanted, rtol=1e-5, atol=1e-6)
    assert (wanted[:15] - first[:15]).abs().sum(1).min() > 0.05
    assert torch.equal(table_steps(config, first, 10)[15:], first[15:]), "unseen rows stay"


def test_a_table_without_a_gradient_stays():
    table = torch.nn.Parameter(torch.ones(3, 4))
    TableOptimizer([table], config=OptimConfig()).step()
    assert torch.equal(table.detach(), torch.ones(3, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dense_lr": 0.0},
        {"sparse_lr": -1.0},
        {"weight_decay": -0.1},
        {"clip_norm": -1.0},
        {"sparse_clip": -1.0},
    ],
)
def test_impossible_rates_are_refused(wrong):
    with pytest.raises(ValueError, match=f"optim.*{next(iter(wrong))}"):
        OptimConfig(**wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_fused_kernels_clip_the_gradient_of_each_lookup_before_rows_are_summed(kind):
    torch.manual_seed(0)
    config = OptimConfig(sparse_kind=kind, sparse_lr=0.1, sparse_clip=0.3)
    first = torch.randn(ROWS, DIM)
    wanted = formula_steps(config, first, 10)
    torch.testing.assert_close(fused_steps(config, first, 10), wanted, rtol=1e-5, atol=1e-6)
    free = formula_steps(OptimConfig(sparse_kind=kind, sparse_lr=0.1), first, 10)
    assert (wanted - free).abs().max() > 0.05, "the clip must bite"


def test_without_a_clip_the_kernels_get_the_words_they_always_got():
    assert fused_params(OptimConfig()).keys() == {"optimizer", "learning_rate", "eps"}
