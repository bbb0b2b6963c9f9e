"""Every placement against one process: a small model of tables, and its reference in float64."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
)

from lfm4ads.shard.initialise import row_values
from lfm4ads.shard.layout import num_column_shards
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from tests.batches import sparse_of
from tests.multiproc.weights import local_weights

SEED, ROWS, STEPS = 7, 32, 10
POOLED = {"user": (40, 16), "item": (31, 16), "tag": (10, 16), "twin": (31, 8)}
"""(rows, dim); of ten rows on four ranks the last holds one."""
READERS = {"user": ["user"], "item": ["item", "recent"], "tag": ["tags"], "twin": ["item"]}
UNPOOLED = {"seen": (25, 16), "brand": (14, 16)}
UNPOOLED_READERS = {"seen": ["target", "history"], "brand": ["brands"]}
KINDS = (
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid",
)
UNPOOLED_KINDS = ("table_wise", "row_wise", "column_wise")
OPTIMISERS = ("sgd", "adagrad", "rowwise_adagrad")
HOST_KINDS = ("table_row_wise", "table_column_wise", "grid")


@dataclass(frozen=True)
class Hosts:
    """Ranks and how many of them pretend to share a host."""

    world: int
    host_ranks: int

    def __str__(self):
        hosts = self.world // self.host_ranks
        return f"{self.world} ranks" + (f" on {hosts} hosts" if hosts > 1 else "")


ALONE = (Hosts(1, 1), Hosts(2, 2), Hosts(4, 4))
APART = (Hosts(2, 1), Hosts(4, 2))


class Rows(nn.Module):
    """Sums over bags and, for sequences, sums of rows that the model takes itself."""

    def __init__(self):
        super().__init__()
        meta = torch.device("meta")
        self.bags = EmbeddingBagCollection(
            tables=[EmbeddingBagConfig(**one) for one in words(POOLED, READERS)], device=meta
        )
        self.rows = EmbeddingCollection(
            tables=[EmbeddingConfig(**one) for one in words(UNPOOLED, UNPOOLED_READERS)],
            device=meta,
        )
        self.head = nn.Linear(sum(width_of(*one) for one in inputs()), 1)

    def forward(self, sparse):
        bags, rows = self.bags(sparse).to_dict(), self.rows(sparse)
        parts = []
        for feature, table in inputs():
            if table in UNPOOLED:
                found = rows[feature]
                parts.append(
                    torch.segment_reduce(found.values(), "sum", lengths=found.lengths().long())
                )
            else:
                parts.append(bags[f"{feature}@{table}" if feature == "item" else feature])
        return self.head(torch.cat(parts, dim=1)).squeeze(1)


def words(tables, readers):
    return [
        {"name": name, "num_embeddings": rows, "embedding_dim": dim, "feature_names": readers[name]}
        for name, (rows, dim) in tables.items()
    ]


def inputs():
    """Return (feature, table) in the order of the head's inputs."""
    return [(f, t) for t, names in (READERS | UNPOOLED_READERS).items() for f in names]


def width_of(_feature, table):
    return (POOLED | UNPOOLED)[table][1]


def batches():
    """Return (ids of every row by feature, labels) of every step, over all ranks."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(STEPS):
        lists = {}
        for table, names in (READERS | UNPOOLED_READERS).items():
            rows = (POOLED | UNPOOLED)[table][0]
            for name in names:
                most = 2 if name in ("user", "item", "target") else 4
                lengths = rng.integers(most > 2, most, ROWS) if most > 2 else np.ones(ROWS, int)
                lists[name] = [rng.integers(0, rows, n).tolist() for n in lengths]
        made.append((lists, torch.from_numpy(rng.integers(0, 2, ROWS)).float()))
    return made


def mine(ranks):
    """Return the share of one rank as (sparse, labels)."""
    at = slice(ranks.rank, None, ranks.world)
    return [
        (sparse_of({name: column[at] for name, column in lists.items()}), labels[at])
        for lists, labels in batches()
    ]


def optim(kind):
    """Rates at which ten steps are felt."""
    rate = {"sgd": 1.0, "adam": 0.01}.get(kind, 0.05)
    return OptimConfig(sparse_kind=kind, dense_lr=3e-3, sparse_lr=rate, clip_norm=0)


def places(kind):
    """Return the config that places every table so, and what is read id by id as near as it can."""
    unpooled = kind if kind in UNPOOLED_KINDS else "table_wise"
    return PlaceConfig(default=kind, tables=dict.fromkeys(UNPOOLED, unpooled))


def build(ranks, *, kind="row_wise", optimiser="rowwise_adagrad", place=None, seed=SEED, **rest):
    torch.manual_seed(seed)
    config = ShardConfig(place=place or places(kind), optim=optim(optimiser), **rest)
    return shard_model(Rows(), config=config, ranks=ranks, seed=seed)


def train(sharded, steps):
    losses = []
    for sparse, labels in steps:
        device = sharded.ranks.device
        logits = sharded.model(sparse.to(device))
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, labels.to(device), reduction="sum"
        )
        sharded.step(loss * (sharded.ranks.world / ROWS))
        losses.append(loss.item() / ROWS)
    return losses


def run_matrix(ranks, cases):
    """Train every (placement, optimiser); return this rank's weights by case."""
    found = {}
    for kind, optimiser in cases:
        sharded = build(ranks, kind=kind, optimiser=optimiser)
        train(sharded, mine(ranks))
        found[kind, optimiser] = local_weights(sharded)
    return found


def column_shards(kind, *, hosts, dim):
    """Return into how many pieces the columns of a table of width ``dim`` are cut."""
    most = {
        "column_wise": hosts.world,
        "table_column_wise": hosts.host_ranks,
        "grid": hosts.world // hosts.host_ranks,
    }
    return num_column_shards(dim, most=most.get(kind, 1))


class Reference:
    """``nn.EmbeddingBag`` and ``nn.Embedding`` on one process, all in float64.

    Optimisers are written from their formulas; ``cuts`` are column pieces by table, of which each
    has a row accumulator of its own.
    """

    def __init__(self, *, optimiser, cuts):
        torch.manual_seed(SEED)
        head = Rows().head
        self.head = nn.Linear(head.in_features, 1, dtype=torch.float64)
        self.head.load_state_dict(head.state_dict())
        self.tables = {}
        for name, (rows, dim) in (POOLED | UNPOOLED).items():
            cells = {"rows": range(rows), "columns": range(dim), "shape": (rows, dim)}
            first = row_values(name, **cells, seed=SEED).double()
            made = nn.EmbeddingBag if name in POOLED else nn.Embedding
            self.tables[name] = made.from_pretrained(
                first, freeze=False, **({"mode": "sum"} if name in POOLED else {})
            )
        config = optim(optimiser)
        self.adam = torch.optim.AdamW(
            self.head.parameters(), lr=config.dense_lr, weight_decay=config.weight_decay
        )
        self.config, self.cuts = config, cuts
        self.sums = {name: torch.zeros_like(one.weight) for name, one in self.tables.items()}

    def forward(self, lists):
        parts = []
        for feature, table in inputs():
            rows = lists[feature]
            flat = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
            lengths = torch.tensor([len(row) for row in rows])
            if table in POOLED:
                offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
                parts.append(self.tables[table](flat, offsets))
            else:
                owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)
                sums = torch.zeros(len(rows), width_of(feature, table), dtype=torch.float64)
                parts.append(sums.index_add(0, owner, self.tables[table](flat)))
        return self.head(torch.cat(parts, dim=1)).squeeze(1)

    def step(self, lists, labels):
        self.adam.zero_grad()
        for one in self.tables.values():
            one.weight.grad = None
        loss = nn.functional.binary_cross_entropy_with_logits(self.forward(lists), labels.double())
        loss.backward()
        self.adam.step()
        with torch.no_grad():
            for name, one in self.tables.items():
                one.weight -= self._update(name, one.weight.grad)

    def _update(self, name, gradient):
        rate = self.config.sparse_lr
        if self.config.sparse_kind == "sgd":
            return rate * gradient
        squared = gradient.square()
        if self.config.sparse_kind == "rowwise_adagrad":
            pieces = squared.chunk(self.cuts[name], dim=1)
            squared = torch.cat([p.mean(dim=1, keepdim=True).expand_as(p) for p in pieces], dim=1)
        self.sums[name] += squared
        return rate * gradient / (self.sums[name].sqrt() + 1e-8)

    def weights(self):
        named = {f"bags.embedding_bags.{name}.weight": self.tables[name].weight for name in POOLED}
        named |= {f"rows.embeddings.{name}.weight": self.tables[name].weight for name in UNPOOLED}
        named |= {f"head.{name}": value for name, value in self.head.named_parameters()}
        return {name: value.detach().numpy().copy() for name, value in named.items()}


def reference(kind, optimiser, *, hosts):
    """Return the weights after all steps on one process, as if placed so on these ranks."""
    unpooled = kind if kind in UNPOOLED_KINDS else "table_wise"
    cuts = {
        name: column_shards(kind if name in POOLED else unpooled, hosts=hosts, dim=dim)
        for name, (_, dim) in (POOLED | UNPOOLED).items()
    }
    model = Reference(optimiser=optimiser, cuts=cuts)
    for lists, labels in batches():
        model.step(lists, labels)
    return model.weights()
