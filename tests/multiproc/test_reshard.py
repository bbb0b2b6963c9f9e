"""A checkpoint says nothing of placement: it goes through ranks and plans and comes back equal."""

import numpy as np
import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from lfm4ads.core.checkpoint import load_checkpoint, save_checkpoint, tensor_shapes
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.state import full_state, load_sharded, save_sharded
from lfm4ads.shard.whole import row_parts
from tests.batches import one_rank, sparse_of
from tests.gloo import run_ranks
from tests.multiproc.weights import differences, tensors_of

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(400)]
SHAPES = {"user": (41, 8), "item": (30, 24), "tag": (9, 4)}
KINDS = ("rowwise_adagrad", "adagrad", "sgd")
CHAIN = (
    (1, "table_wise"), (2, "row_wise"), (4, "column_wise"), (2, "data_parallel"), (1, "table_wise"),
)  # fmt: skip
ITEM = "bags.embedding_bags.item.weight"


class Small(nn.Module):
    """Three tables and a layer."""

    def __init__(self, *, shapes):
        super().__init__()
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=name, num_embeddings=rows, embedding_dim=dim, feature_names=[name]
                )
                for name, (rows, dim) in shapes.items()
            ],
            device=torch.device("meta"),
        )
        self.names = tuple(shapes)
        self.head = nn.Linear(sum(dim for _, dim in shapes.values()), 1)

    def forward(self, sparse):
        found = self.bags(sparse)  # whose order depends on the plan
        return self.head(torch.cat([found[name] for name in self.names], dim=1)).squeeze(1)


def build(ranks, *, place, kind, seed=3, shapes=SHAPES):
    torch.manual_seed(seed)
    optim = OptimConfig(sparse_kind=kind, sparse_lr=0.05)
    config = ShardConfig(place=PlaceConfig(default=place), optim=optim)
    return shard_model(Small(shapes=shapes), config=config, ranks=ranks, seed=seed)


def train(sharded, *, first, steps, rows=16):
    ranks = sharded.ranks
    for step in range(first, first + steps):
        drawn = np.random.default_rng(step)
        lists = {
            name: [drawn.integers(0, size, 2).tolist() for _ in range(rows)]
            for name, (size, _) in SHAPES.items()
        }
        labels = torch.from_numpy(drawn.integers(0, 2, rows)).float()
        mine = {name: column[ranks.rank :: ranks.world] for name, column in lists.items()}
        logits = sharded.model(sparse_of(mine))
        wanted = labels[ranks.rank :: ranks.world]
        sharded.step(nn.functional.binary_cross_entropy_with_logits(logits, wanted))


def pass_on(ranks, root, stage, place):
    """Load what the stage before saved and save it again; the first one trains instead."""
    for kind in KINDS:
        sharded = build(ranks, place=place, kind=kind, seed=3 if stage == 0 else 99)
        if stage == 0:
            train(sharded, first=0, steps=3)
        else:
            load_sharded(root / f"{kind}-{stage - 1}", sharded)
        save_sharded(root / f"{kind}-{stage}", sharded, meta={"stage": stage})


def read(folder):
    """Return every whole tensor of a checkpoint."""
    tensors = {name: torch.empty(shape) for name, shape in tensor_shapes(folder, part="").items()}
    state = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        state.setdefault(part, {})[rest] = tensor
    load_checkpoint(folder, state, ranks=one_rank())
    return tensors


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    for stage, (world, place) in enumerate(CHAIN):
        run_ranks(pass_on, world, root, stage, place, seconds=300)
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_and_plans_leave_weights_and_state_as_they_were(chain, kind):
    stages = [read(chain / f"{kind}-{stage}") for stage in range(len(CHAIN))]
    first, last = stages[0], stages[-1]
    assert first.keys() == last.keys()
    assert [name for name in first if not torch.equal(first[name], last[name])] == []
    parts = {name.split(".")[0] for name in first}
    assert parts == {"model", "dense"} | ({"sparse"} if kind != "sgd" else set())
    sums = [one.get(f"sparse.{ITEM}.sum") for one in stages]
    if kind == "rowwise_adagrad":
        assert [list(one.shape) for one in sums] == [[30, 1], [30, 1], [30, 3], [30, 1], [30, 1]]
        assert read_json(chain / f"{kind}-2" / "tables.json")[ITEM] == [8, 8, 8]
    if kind == "adagrad":
        assert {one.shape for one in sums} == {(30, 24)}
    if kind != "sgd":
        assert sums[0].max() > 0
        assert len(sums[0].unique()) > 10


def from_columns(ranks, root):
    """Train column-wise on two ranks; the blocks of a row differ."""
    sharded = build(ranks, place="column_wise", kind="rowwise_adagrad")
    train(sharded, first=0, steps=3)
    save_sharded(root / "columns", sharded, meta={})
    again = build(ranks, place="column_wise", kind="rowwise_adagrad", seed=99)
    load_sharded(root / "columns", again)
    same = differences(tensors_of(full_state(sharded)[0]), tensors_of(full_state(again)[0]))
    for one in (sharded, again):
        train(one, first=3, steps=2)
    end = differences(tensors_of(full_state(sharded)[0]), tensors_of(full_state(again)[0]))
    return same, end


def to_others(ranks, root):
    """Load the column blocks of two ranks elsewhere."""
    for place in ("column_wise", "table_wise"):
        sharded = build(ranks, place=place, kind="rowwise_adagrad", seed=99)
        load_sharded(root / "columns", sharded)
        save_sharded(root / f"{place}-{ranks.world}", sharded, meta={})


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    root = tmp_path_factory.mktemp("columns")
    assert run_ranks(from_columns, 2, root, seconds=300) == [([], []), ([], [])]
    run_ranks(to_others, 4, root, seconds=300)
    return root


def test_a_block_that_is_not_there_is_the_mean_of_those_it_overlaps_by_width(columns):
    saved = read(columns / "columns")[f"sparse.{ITEM}.sum"].double()
    assert saved.shape == (30, 2)
    assert (saved[:, 0] != saved[:, 1]).sum() > 10, "or any mean would do"
    one = read(columns / "table_wise-4")[f"sparse.{ITEM}.sum"]
    torch.testing.assert_close(one.double(), (saved[:, :1] + saved[:, 1:]) / 2, rtol=1e-7, atol=0)
    three = read(columns / "column_wise-4")[f"sparse.{ITEM}.sum"]
    # Twice twelve columns as three times eight: the middle eight are four of each.
    wanted = torch.stack([saved[:, 0], saved.mean(dim=1), saved[:, 1]], dim=1)
    torch.testing.assert_close(three.double(), wanted, rtol=1e-7, atol=0)


def refusals(ranks, root):
    """Return what is said of models that are not the checkpoint's, on every rank."""
    said = {}
    sharded = build(ranks, place="table_wise", kind="rowwise_adagrad")
    save_sharded(root / "one", sharded, meta={})
    others = {
        "table more": SHAPES | {"new": (10, 4)},
        "table less": {name: SHAPES[name] for name in ("user", "item")},
        "rows": SHAPES | {"tag": (10, 4)},
    }
    for name, shapes in others.items():
        said[name] = refused(build(ranks, place="row_wise", kind="sgd", shapes=shapes), root)
    said["kind"] = refused(build(ranks, place="row_wise", kind="adagrad"), root)
    said["stateless"] = refused(build(ranks, place="row_wise", kind="sgd"), root)
    bigger = build(ranks, place="row_wise", kind="rowwise_adagrad")
    bigger.model.module.register_buffer("level", torch.zeros(3))
    said["buffer"] = refused(bigger, root)
    return said


def refused(sharded, root):
    before = tensors_of({"model": sharded.model.state_dict()})
    with pytest.raises(UserError) as caught:
        load_sharded(root / "one", sharded)
    assert caught.value.everywhere
    assert differences(before, tensors_of({"model": sharded.model.state_dict()})) == []
    return str(caught.value)


def test_what_matches_nothing_stops_with_its_name(tmp_path):
    for said in run_ranks(refusals, 2, tmp_path, seconds=300):
        assert "lacks the table new" in said["table more"]
        assert "which the model has" in said["table more"]
        assert "has the table tag" in said["table less"]
        assert "which the model lacks" in said["table less"]
        assert "[9, 4], the model as [10, 4]" in said["rows"] or "sparse" in said["rows"]
        assert f"sparse.{ITEM}.sum as [30, 1], the model as [30, 24]" in said["kind"]
        assert "has the tensor sparse.bags" in said["stateless"]
        assert "has no tensor model.level" in said["buffer"]
        assert all(text.endswith("; use the config that wrote it") for text in said.values())


def cut_by_rows(ranks, root):
    """Write an array by rows of two ranks, read it by rows of four and of one, unevenly."""
    whole = torch.arange(23, dtype=torch.int64) ** 7
    edges = {1: [0, 23], 2: [0, 7, 23], 4: [0, 7, 7, 21, 23]}[ranks.world]  # one has no rows
    mine = slice(*edges[ranks.rank : ranks.rank + 2])
    local = whole[mine].clone() if ranks.world == 2 else torch.zeros_like(whole[mine])
    state = {"ids": {"item": row_parts(local, first_row=mine.start, num_rows=23)}}
    if ranks.world == 2:
        save_checkpoint(root / "ids", state, meta={}, ranks=ranks)
    else:
        load_checkpoint(root / "ids", state, ranks=ranks)
    return torch.equal(local, whole[mine])


def test_arrays_cut_by_rows_go_through_any_number_of_ranks(tmp_path):
    for world in (2, 4, 1):
        assert run_ranks(cut_by_rows, world, tmp_path, seconds=300) == [True] * world
    assert tensor_shapes(tmp_path / "ids", part="ids") == {"item": [23]}


def on_hosts(ranks, root):
    """Train under the plans that know hosts; return what a load on the same plan differs in."""
    found = {}
    for place in ("table_row_wise", "table_column_wise", "grid"):
        sharded = build(ranks, place=place, kind="rowwise_adagrad")
        train(sharded, first=0, steps=3)
        save_sharded(root / place, sharded, meta={})
        again = build(ranks, place=place, kind="rowwise_adagrad", seed=99)
        load_sharded(root / place, again)
        states = [tensors_of(full_state(one)[0]) for one in (sharded, again)]
        found[place] = differences(*states), len(states[0])
    return found


def test_state_of_plans_that_know_hosts_is_that_of_the_others(chain, columns, tmp_path):
    """The same steps leave the same accumulators, whoever holds which rows and columns."""
    for found in run_ranks(on_hosts, 4, tmp_path, seconds=300, host_ranks=2):
        assert not any(names for names, _ in found.values()), found
        assert all(count > 5 for _, count in found.values())
    peers = {
        "table_row_wise": chain / "rowwise_adagrad-0",
        "table_column_wise": columns / "columns",
        "grid": columns / "columns",
    }
    for place, peer in peers.items():
        own, other = read(tmp_path / place), read(peer)
        assert own.keys() == other.keys()
        assert (
            read_json(tmp_path / place / "tables.json")[ITEM]
            == read_json(peer / "tables.json")[ITEM]
        ), place
        for name in (f"sparse.{ITEM}.sum", f"model.{ITEM}"):
            torch.testing.assert_close(own[name], other[name], rtol=1e-3, atol=1e-7)
