"""Tables read id by id, shared by a sequence and its target: ranks and plans change nothing."""

import numpy as np
import pytest
import torch
from torch import nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
)

from lfm4ads.nn.sequences import bag_sums, to_padded
from lfm4ads.nn.temporal import TemporalConfig, TemporalInterest
from lfm4ads.shard.initialise import row_values
from lfm4ads.shard.optim import OptimConfig, TableOptimizer
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.state import full_state, load_sharded, load_weights, save_sharded
from tests.batches import sparse_of
from tests.gloo import run_ranks
from tests.multiproc.weights import (
    differences,
    join_weights,
    largest_difference,
    local_weights,
    plain_weights,
    tensors_of,
)

pytestmark = pytest.mark.multiproc
ROWS, STEPS, SAVE_AT, MAX_LENGTH, SEED = 16, 4, 2, 3, 5
SHAPES = {
    "user": (40, 8),
    "main/item": (30, 8),
    "main/tag": (12, 8),
    "twin/item": (30, 8),
    "side/item": (30, 4),
}
PLACES = {
    **{kind: PlaceConfig(default=kind) for kind in ("table_wise", "row_wise", "column_wise")},
    "mixed": PlaceConfig(
        tables={"user": "data_parallel", "main/item": "column_wise", "twin/item": "row_wise"}
    ),
}
KINDS = ("sgd", "rowwise_adagrad")
RUNS = [(place, kind) for place in PLACES for kind in KINDS]
WORLDS = (2, 1, 4)  # what two ranks write is read by fewer and by more
WIDE = ("main/item", "main/tag", "twin/item")
META = torch.device("meta")
USER = "bags.embedding_bags.user.weight"
UNPOOLED = (
    "rows.dim_8.embeddings.main/item.weight",
    "rows.dim_8.embeddings.main/tag.weight",
    "rows.dim_8.embeddings.twin/item.weight",
    "rows.dim_4.embeddings.side/item.weight",
)


class Small(nn.Module):
    """Sums over bags, and tables that an id and a sequence share: two of one width, one other."""

    def __init__(self):
        super().__init__()
        features = {"user": ["user"], "main/tag": ["tags"]}
        words = {
            name: {
                "name": name,
                "num_embeddings": rows,
                "embedding_dim": dim,
                "feature_names": features.get(name, ["item", "recent"]),
            }
            for name, (rows, dim) in SHAPES.items()
        }
        self.bags = EmbeddingBagCollection(
            tables=[EmbeddingBagConfig(**words["user"])], device=META
        )
        wide = [EmbeddingConfig(**words[name]) for name in SHAPES if name in WIDE]
        narrow = [EmbeddingConfig(**words["side/item"])]
        self.rows = nn.ModuleDict(
            {
                "dim_8": EmbeddingCollection(tables=wide, device=META),
                "dim_4": EmbeddingCollection(tables=narrow, device=META),
            }
        )
        config = TemporalConfig(gaps=False)
        self.interests = nn.ModuleDict(
            {
                name: TemporalInterest(SHAPES[name][1], max_length=MAX_LENGTH, config=config)
                for name in SHAPES
                if "item" in name
            }
        )
        self.head = nn.Linear(8 + 8 + 8 + 8 + 4, 1)

    def forward(self, sparse):
        wide, narrow = (collection(sparse) for collection in self.rows.values())
        parts = [self.bags(sparse)["user"], sums(wide["tags"])]
        for name, interest in self.interests.items():
            # Keys of TorchRec: a feature names its table where a collection has several for it.
            found, suffix = (narrow, "") if name == "side/item" else (wide, f"@{name}")
            recent = found[f"recent{suffix}"]
            events = to_padded(recent.values(), recent.lengths(), MAX_LENGTH)
            parts.append(interest(events, recent.lengths(), sums(found[f"item{suffix}"]), None))
        return self.head(torch.cat(parts, dim=1)).squeeze(1)


def sums(jagged):
    return bag_sums(jagged.values(), jagged.lengths())


def batches(*, rank=0, world=1):
    """Return a rank's features and labels of every step; in the last step no row has a history."""
    made = []
    rng = np.random.default_rng(1)
    for step in range(STEPS):
        lists = {
            "user": [[int(rng.integers(40))] for _ in range(ROWS)],
            # Few of many, on every rank: an item is a target here and in a history there.
            "item": [[3 * int(rng.integers(10))] for _ in range(ROWS)],
            "recent": [(3 * rng.integers(0, 10, n)).tolist() for n in rng.integers(0, 4, ROWS)],
            "tags": [rng.integers(0, 12, n).tolist() for n in rng.integers(0, 3, ROWS)],
        }
        if step == STEPS - 1:
            lists["recent"] = [[] for _ in range(ROWS)]
        labels = torch.from_numpy(rng.integers(0, 2, ROWS)).float()
        mine = {name: column[rank::world] for name, column in lists.items()}
        made.append((sparse_of(mine), labels[rank::world]))
    return made


def optim(kind):
    rate = 2.0 if kind == "sgd" else 0.05
    return OptimConfig(sparse_kind=kind, dense_lr=3e-3, sparse_lr=rate, clip_norm=0)


def build(ranks, *, place, kind, seed=SEED):
    torch.manual_seed(seed)
    config = ShardConfig(place=PLACES[place], optim=optim(kind))
    return shard_model(Small(), config=config, ranks=ranks, seed=seed)


def train(model, step, some):
    """Return the logits of every step, each before its update."""
    outputs = []
    for sparse, labels in some:
        logits = model(sparse)
        step(nn.functional.binary_cross_entropy_with_logits(logits, labels))
        outputs.append(logits.detach().numpy().copy())
    return outputs


def body(ranks, folder):
    """Train under every plan and optimiser, restart in the middle, read what two ranks wrote."""
    mine, found, others = batches(rank=ranks.rank, world=ranks.world), {}, {}
    for place, kind in RUNS:
        sharded = build(ranks, place=place, kind=kind)
        weights, logits = [local_weights(sharded)], []
        for part in (mine[:1], mine[1:SAVE_AT]):
            logits += train(sharded.model, sharded.step, part)
            weights.append(local_weights(sharded))
        path = folder / f"{ranks.world}-{place}"
        saved = tensors_of(full_state(sharded)[0])
        if kind == "rowwise_adagrad":
            save_sharded(path, sharded, meta={"step": SAVE_AT})
        logits += train(sharded.model, sharded.step, mine[SAVE_AT:])
        weights.append(local_weights(sharded))
        found[place, kind] = {
            "weights": weights,
            "logits": logits,
            "tables": sharded.tables,
            "dense": sorted(sharded.dense_parameters()),
        }
        if kind == "rowwise_adagrad":
            others[place] = build(ranks, place=place, kind=kind, seed=99)
            found[place, kind] |= restart(
                others[place], path, mine[SAVE_AT:], saved=saved, straight=sharded
            )
    for place, other in others.items():
        load_weights(folder / f"2-{source_of(place)}", other)
        found[place, "rowwise_adagrad"]["read"] = local_weights(other)
    return found


def restart(other, path, rest, *, saved, straight):
    """Go on from a checkpoint; return what differs from the straight run, and what could not."""
    before = tensors_of({"model": other.model.state_dict()})
    assert load_sharded(path, other) == {"step": SAVE_AT}
    loaded = tensors_of(full_state(other)[0])
    train(other.model, other.step, rest)
    end, other_end = tensors_of(full_state(straight)[0]), tensors_of(full_state(other)[0])
    return {
        "loaded": differences(saved, loaded),
        "end": max(
            (end[name] - other_end[name]).abs().max().item() for name in end if end[name].numel()
        ),
        "was equal": [name for name in before if torch.equal(before[name], loaded[name])],
        "stood still": [name for name in saved if torch.equal(saved[name], end[name])],
        "optimised": sorted(full_state(other)[0]["sparse"]),
    }


def source_of(place):
    """Return the plan whose checkpoint a plan reads: the one before it."""
    places = list(PLACES)
    return places[places.index(place) - 1]


def plain_run(kind):
    """Train on one process with plain torch and dense gradients; return weights and logits."""
    torch.manual_seed(SEED)
    model = Small()
    for collection in (model.bags, *model.rows.values()):
        collection.to_empty(device=torch.device("cpu"))
    tables = {name: p for name, p in model.named_parameters() if ".embedding" in name}
    for name, weight in tables.items():
        table, (rows, dim) = name.split(".")[-2], weight.shape
        cells = {"rows": range(rows), "columns": range(dim), "shape": (rows, dim)}
        weight.data.copy_(row_values(table, **cells, seed=SEED))
    config = optim(kind)
    sparse = TableOptimizer(tables.values(), config=config)
    dense = torch.optim.AdamW(
        [p for name, p in model.named_parameters() if name not in tables],
        lr=config.dense_lr,
        weight_decay=config.weight_decay,
    )

    def step(loss):
        model.zero_grad()
        loss.backward()
        sparse.step()
        dense.step()

    weights, logits = [plain_weights(model)], []
    for some in (slice(1), slice(1, SAVE_AT), slice(SAVE_AT, STEPS)):
        logits += train(model, step, batches()[some])
        weights.append(plain_weights(model))
    return weights, logits


@pytest.fixture(scope="module")
def plain():
    torch.set_num_threads(1)
    return {kind: plain_run(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """What every rank found in each run, by number of ranks."""
    folder = tmp_path_factory.mktemp("unpooled")
    return {world: run_ranks(body, world, folder) for world in WORLDS}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("place", "kind"), RUNS)
def test_values_logits_and_steps_are_those_of_plain_embeddings(jobs, plain, world, place, kind):
    results = [found[place, kind] for found in jobs[world]]
    weights = [join_weights([one["weights"][at] for one in results]) for at in range(4)]
    wanted, logits = plain[kind]
    assert largest_difference(weights[0], wanted[0])[0] == 0
    steps = STEPS
    if kind == "rowwise_adagrad" and place in ("column_wise", "mixed") and world > 1:
        # A column shard keeps a row accumulator of its own, so that two ranks differ from one; of
        # a table of width eight there are two, on two ranks or four.
        two = [found[place, kind]["weights"] for found in jobs[2]]
        wanted, steps = [join_weights([one[at] for one in two]) for at in range(4)], 1
    for rank, one in enumerate(results):
        for found, whole in zip(one["logits"][:steps], logits, strict=False):
            np.testing.assert_allclose(found, whole[rank::world], rtol=1e-4, atol=1e-6)
    assert largest_difference(weights[1], wanted[1])[0] < 1e-6
    assert largest_difference(weights[3], wanted[3])[0] < 1e-5
    # Far above the tolerance, so that a table which stands still would show.
    tables = [name for name in wanted[0] if ".embedding" in name]
    assert len(tables) == len(SHAPES)
    assert all(np.abs(wanted[1][name] - wanted[0][name]).max() > 1e-3 for name in tables)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_restarted_run_is_the_straight_run(jobs, world, place):
    for results in jobs[world]:
        found = results[place, "rowwise_adagrad"]
        assert found["loaded"] == []
        # DistributedDataParallel orders its buckets anew after its first step: with more than two
        # ranks, other sums of dense gradients in the last bit.
        assert found["end"] <= (0 if world < 3 else 1e-7)
        # The comparisons could fail: other weights were there, and every tensor moved since.
        assert found["was equal"] == []
        assert found["stood still"] == []
    optimised = {
        name for found in jobs[world] for name in found[place, "rowwise_adagrad"]["optimised"]
    }
    assert optimised - {USER} == set(UNPOOLED)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("place", PLACES)
def test_weights_of_two_ranks_load_on_another_plan_and_number_of_ranks(jobs, world, place):
    source = source_of(place)
    run, written = (place, "rowwise_adagrad"), (source, "rowwise_adagrad")
    read = join_weights([results[run]["read"] for results in jobs[world]])
    wanted = join_weights([results[written]["weights"][2] for results in jobs[2]])
    assert largest_difference(read, wanted)[0] == 0


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("place", "kind"), RUNS)
def test_tables_of_both_collections_are_known_and_none_is_dense(jobs, world, place, kind):
    dense = {"head.weight", "head.bias"}
    dense |= {f"interests.{name}/item.positions" for name in ("main", "twin", "side")}
    for results in jobs[world]:
        assert results[place, kind]["tables"] == SHAPES
        replicated = {USER} if place == "mixed" else set()
        assert set(results[place, kind]["dense"]) == dense | replicated
