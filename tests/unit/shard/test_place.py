"""Plans for any number of ranks, made by one process that needs no peers."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
)

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.shard.kernel import KernelConfig
from lfm4ads.shard.optim import OptimConfig, fused_params
from lfm4ads.shard.place import (
    PlaceConfig,
    find_collections,
    plan_tables,
    table_sharders,
    table_weights,
)
from lfm4ads.shard.planned import open_plan
from tests.batches import one_rank

META = torch.device("meta")


def collections_of(pooled, unpooled):
    """Return a model with a collection of bags and one for lookups id by id for every width."""
    words = {
        name: {"name": name, "embedding_dim": dim, "num_embeddings": rows, "feature_names": [name]}
        for name, (rows, dim) in (pooled | unpooled).items()
    }
    model = nn.Module()
    if pooled:
        bags = [EmbeddingBagConfig(**words[name]) for name in pooled]
        model.bags = EmbeddingBagCollection(tables=bags, device=META)
    for dim in {dim for _, dim in unpooled.values()}:
        tables = [EmbeddingConfig(**words[name]) for name in unpooled if unpooled[name][1] == dim]
        model.add_module(f"rows_{dim}", EmbeddingCollection(tables=tables, device=META))
    return nn.ModuleDict({"tables": model})


def plan(sizes, *, world, rank=0, host_ranks=0, unpooled=(), **config):
    """Return sharding type and ranks of every table; ``sizes`` are (rows, dim) by name."""
    model = collections_of(sizes, dict(unpooled))
    made = plan_tables(
        model,
        config=PlaceConfig(**config),
        ranks=replace(one_rank(rank=rank, world=world), host_ranks=host_ranks),
        sharders=table_sharders(fused_params(OptimConfig()), codecs=None),
    )
    kernels = {one.compute_kernel for part in made.plan.values() for one in part.values()}
    assert kernels <= {"fused", "dense"}
    return {
        name: (one.sharding_type, one.ranks or [])
        for part in made.plan.values()
        for name, one in part.items()
    }


def numbers_held(tables, placed, *, world):
    held = [0.0] * world
    for name, (kind, ranks) in placed.items():
        rows, dim = tables[name]
        for rank in range(world) if kind == "row_wise" else ranks:
            held[rank] += rows * dim / (world if kind == "row_wise" else len(ranks))
    return held


@pytest.mark.parametrize("world", [1, 2, 4])
def test_auto_places_large_tables_row_wise_and_spreads_the_rest_evenly(world):
    tables = {f"t{size}": (1000 * size, 8) for size in range(1, 9)} | {"big": (50_000, 16)}
    placed = plan(tables, world=world, row_wise_rows=50_000)
    assert {name for name, (kind, _) in placed.items() if kind == "row_wise"} == {"big"}
    assert {kind for kind, _ in placed.values()} == {"row_wise", "table_wise"}
    # 1 + ... + 8 is 36: the parts can be equal, and largest-first finds them.
    held = numbers_held(tables, placed, world=world)
    assert max(held) == pytest.approx(min(held))


def test_auto_weighs_width_as_well_as_rows():
    placed = plan({"wide": (100, 64), "a": (400, 8), "b": (400, 8)}, world=2)
    assert placed["a"] == placed["b"] != placed["wide"]


def test_auto_leaves_tables_with_fewer_rows_than_ranks_whole():
    placed = plan({"tiny": (3, 8)}, world=4, row_wise_rows=1)
    assert placed["tiny"][0] == "table_wise"


def test_a_table_can_be_placed_by_name():
    tables = {"a": (100, 8), "b": (100, 8), "c": (100, 8), "d": (100, 8)}
    own = {"a": "row_wise", "b": "data_parallel", "c": "column_wise"}
    placed = plan(tables, world=2, tables=own)
    kinds = {name: kind for name, (kind, _) in placed.items()}
    assert kinds == {**own, "d": "table_wise"}


@pytest.mark.parametrize(
    ("dim", "world", "shards"),
    [(8, 2, 2), (8, 4, 2), (16, 4, 4), (4, 4, 1), (12, 4, 3), (20, 2, 1)],
)
def test_column_shards_are_as_many_as_widths_of_four_allow(dim, world, shards):
    (kind, ranks) = plan({"a": (100, dim)}, world=world, default="column_wise")["a"]
    assert kind == "column_wise"
    assert len(ranks) == len(set(ranks)) == shards


def test_column_shards_too_go_where_there_is_room():
    tables = {f"t{i}": (100, 8) for i in range(4)}
    placed = plan(tables, world=4, default="column_wise")
    assert numbers_held(tables, placed, world=4) == [800.0] * 4


def test_column_wise_on_one_rank_is_the_whole_table():
    assert plan({"a": (100, 8)}, world=1, default="column_wise") == {"a": ("table_wise", [0])}


def test_every_rank_makes_the_same_plan():
    tables = {f"t{i}": (100 + i % 3, 8) for i in range(9)}
    assert len({str(plan(tables, world=4, rank=rank)) for rank in range(4)}) == 1


def test_a_placement_of_no_table_is_refused_in_a_sentence():
    wanted = r"place\.tables names colour, which is no table of the model; the tables are a, b$"
    with pytest.raises(UserError, match=wanted) as caught:
        plan({"b": (9, 8), "a": (9, 8)}, world=2, tables={"a": "row_wise", "colour": "row_wise"})
    assert caught.value.everywhere


def test_too_few_rows_for_row_wise_are_refused_in_a_sentence():
    wanted = "table a has 3 rows, too few for row_wise on 4 ranks; place it table_wise$"
    with pytest.raises(UserError, match=wanted) as caught:
        plan({"a": (3, 8)}, world=4, default="row_wise")
    assert caught.value.everywhere
    assert plan({"a": (4, 8)}, world=4, default="row_wise")["a"][0] == "row_wise"


def test_the_load_counts_the_tables_of_all_collections():
    """Alone, each collection would put its largest table on rank 0."""
    pooled = {"a": (400, 8), "b": (100, 8)}
    unpooled = {"main/item": (300, 8), "main/tag": (100, 16)}
    placed = plan(pooled, unpooled=unpooled, world=2)
    assert placed.keys() == {*pooled, *unpooled}
    assert numbers_held(pooled | unpooled, placed, world=2) == [4000.0, 4000.0]


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_tables_read_id_by_id_are_placed_by_the_same_words(kind):
    tables = {"main/item": (100, 8), "main/tag": (50, 8)}
    placed = plan({}, unpooled=tables, world=2, tables={"main/item": kind})
    assert {name: one for name, (one, _) in placed.items()} == {
        "main/item": kind,
        "main/tag": "table_wise",
    }


@pytest.mark.parametrize(
    "config", [{"default": "data_parallel"}, {"tables": {"i": "data_parallel"}}]
)
def test_data_parallel_is_refused_in_a_sentence_for_what_is_read_id_by_id(config):
    wanted = "table i is read id by id, for a sequence, and cannot be data_parallel;"
    place = "place it table_wise, row_wise or column_wise$"
    with pytest.raises(UserError, match=f"{wanted} {place}") as caught:
        plan({"a": (9, 8)}, unpooled={"i": (9, 8)}, world=2, **config)
    assert caught.value.everywhere
    config = {"default": "data_parallel", "tables": {"i": "table_wise"}}
    assert plan({"a": (9, 8)}, unpooled={"i": (9, 8)}, world=2, **config)["i"][0] == "table_wise"


@pytest.mark.parametrize("kind", ["table_row_wise", "table_column_wise", "grid"])
def test_kinds_that_know_hosts_are_placed_on_them_and_refused_for_sequences(kind):
    tables = {"a": (100, 8), "b": (100, 8)}
    placed = plan(tables, world=4, host_ranks=2, default=kind)
    wanted = "grid_shard" if kind == "grid" else kind
    assert {one for one, _ in placed.values()} == {wanted}
    assert numbers_held(tables, placed, world=4) == [400.0] * 4
    refused = f"table i is read id by id, for a sequence, and cannot be {kind};"
    with pytest.raises(UserError, match=refused):
        plan({}, unpooled={"i": (99, 8)}, world=4, host_ranks=2, default=kind)


def test_a_kernel_of_no_table_or_of_a_dense_one_is_refused_in_a_sentence():
    kernels = {"colour": KernelConfig(kind="fused_uvm")}
    with pytest.raises(UserError, match=r"place\.kernels names colour, which is no table"):
        plan({"a": (9, 8)}, world=2, kernels=kernels)
    with pytest.raises(UserError, match="table colour, which is placed data_parallel, whole on"):
        plan({"colour": (9, 8)}, world=2, kernels=kernels, default="data_parallel")


def test_auto_leaves_tables_whole_whose_blocks_would_leave_a_rank_empty():
    placed = plan({"a": (9, 8), "b": (10, 8)}, world=4, row_wise_rows=1)
    assert {name: kind for name, (kind, _) in placed.items()} == {
        "a": "table_wise",
        "b": "row_wise",
    }


def test_a_model_without_tables_has_an_empty_plan():
    assert plan({}, world=2) == {}


def test_tables_are_told_by_the_names_of_their_weights():
    model = collections_of({"user": (9, 8)}, {"main/item": (9, 8)})
    weights = table_weights(find_collections(model))
    assert weights == {
        "tables.bags.embedding_bags.user.weight": "user",
        "tables.rows_8.embeddings.main/item.weight": "main/item",
    }
    assert weights.keys() == dict(model.named_parameters()).keys()


def placement(path, *rows, ranks=2):
    """Write what the plan stage writes; a row is (name, kind, column parts, ranks)."""
    tables = [
        {"name": name, "rows": 64, "dim": 8, "kind": kind, "column_parts": parts, "ranks": held}
        | {"kernel": "fused", "cache_ratio": 0.0}
        for name, kind, parts, held in rows
    ]
    path.write_text(json.dumps({"schema_version": 1, "ranks": ranks, "tables": tables}))
    return path


def planned(path, shapes, *, world=2, **config):
    made = PlaceConfig(plan=path, **config)
    return open_plan(made, shapes=shapes, ranks=Alone(rank=0, world=world, device=META))


class Alone(Ranks):
    """A rank among others that never fail."""

    def agree(self, error):
        if error:
            raise error


def test_a_plan_says_who_holds_a_table_and_the_config_says_more(tmp_path):
    path = placement(
        tmp_path / "placement.json",
        ("whole", "table_wise", 1, [1]),
        ("cut", "column_wise", 2, [1, 0]),
        ("rows", "row_wise", 1, []),
        ("every", "data_parallel", 1, []),
        ("other", "table_wise", 1, [1]),
    )
    shapes = dict.fromkeys(("whole", "cut", "rows", "every", "other"), (64, 8))
    found = planned(path, shapes, tables={"other": "row_wise"})
    made = plan_tables(
        collections_of(shapes, {}),
        config=found.config,
        ranks=one_rank(world=2),
        sharders=table_sharders(fused_params(OptimConfig()), codecs=None),
        planned=found.chosen,
    )
    places = {name: one for part in made.plan.values() for name, one in part.items()}
    assert {name: one.ranks for name, one in places.items()} == {
        "whole": [1],
        "cut": [1, 0],
        "rows": [0, 1],
        "every": [0, 1],
        "other": [0, 1],
    }
    assert planned(path, {"main/whole": (64, 8)}).chosen["main/whole"].groups == [[1]]
    cells = [one.shard_offsets for one in places["cut"].sharding_spec.shards]
    assert cells == [[0, 0], [0, 4]]


def test_a_plan_of_something_else_is_refused_in_a_sentence(tmp_path):
    path = placement(tmp_path / "placement.json", ("t", "table_wise", 1, [1]))
    for world, shapes, words in (
        (4, {"t": (64, 8)}, "places tables on 2 ranks and this job has 4; plan for as many"),
        (2, {"t": (64, 8), "u": (64, 8)}, "has no table u; plan it, or place it"),
        (2, {"t": (65, 8)}, "has table t with 64 rows of 8, the model has 65 of 8; plan again"),
    ):
        with pytest.raises(UserError, match=words):
            planned(path, shapes, world=world)
    placement(path, ("t", "column_wise", 4, [0, 1, 0, 1]))
    with pytest.raises(UserError, match="places table t as no plan does"):
        planned(path, {"t": (64, 8)})
    path.write_text("[]")
    with pytest.raises(UserError, match="is no placement"):
        planned(path, {"t": (64, 8)})
