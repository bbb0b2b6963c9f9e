"""Managed tables on 1, 2 and 4 ranks: the same maps, the same model, rows that begin anew."""

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.tables import TableSet
from lfm4ads.shard.idspace import IdsConfig
from lfm4ads.shard.initialise import row_values
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.state import copy_weights, load_sharded, load_weights, put_weights, save_sharded
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import INTEREST, MODEL, PLACES, SEED, optim, schema_of, train
from tests.multiproc.weights import (
    differences,
    join_weights,
    largest_difference,
    local_weights,
    tensors_of,
)
from tests.worlds import SCHEMA, write_tiny

MANAGED = SCHEMA.replace(
    "user: {rows: 64, dim: 8}", "user: {rows: 26, dim: 8, ids: managed}"
).replace("item: {rows: 128, dim: 8}", "item: {rows: 34, dim: 8, ids: managed}")
IDS = IdsConfig(ways=4, half_life_steps=2)
WIDE = ExpertConfig(tables="wide", interaction=InteractionConfig(layers=1), hidden=(16,))
TWO_SETS = LfmConfig(
    sets={"main": TableSet(), "wide": TableSet(dim=16)},
    tower=MODEL.tower,
    mix=MixConfig(experts={**MODEL.mix.experts, "wide": WIDE}, hidden=(8,)),
)
RUNS = {
    "row_wise": ("row_wise", "rowwise_adagrad", MODEL),
    "mixed": ("mixed", "rowwise_adagrad", MODEL),
    "adagrad": ("mixed", "adagrad", TWO_SETS),
    "data_parallel": ("data_parallel", "rowwise_adagrad", MODEL),
    "id by id": ("table_wise", "rowwise_adagrad", INTEREST),
}
WORLDS = (1, 2, 4)
STEPS = 9
pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("ids") / "data", days=1, rows=620, schema=MANAGED)


def build(folder, ranks, *, place="row_wise", kind="rowwise_adagrad", model=MODEL, ids=IDS):
    torch.manual_seed(SEED)
    config = ShardConfig(place=PLACES[place], optim=optim(kind), ids=ids)
    return shard_model(Lfm(schema_of(folder), model), config=config, ranks=ranks, seed=SEED)


def whole_maps(sharded):
    """Return every array of the maps, put together from all ranks."""
    whole = {}
    for name, piece in sharded.id_state().items():
        parts = sharded.ranks.gather(piece.values.numpy())
        firsts = sharded.ranks.gather(np.array([piece.first]))
        array = np.full(piece.total, -7)
        for first, part in zip(firsts, parts, strict=True):
            array[first[0] : first[0] + len(part)] = part
        assert (array != -7).all()
        whole[name] = array
    return whole


def optimiser_parts(sharded):
    """Return (weight, first row, first column, state) of this rank's parts of the tables."""
    weights = sharded.model.state_dict()
    fused = sharded.fused.state_dict()["state"]
    parameters = dict(sharded.model.named_parameters())
    for name, weight in weights.items():
        if ".embedding_bags." not in name and ".embeddings." not in name:
            continue
        table = name.split(".")[-2]
        states = [
            shard
            for one in fused.get(name, {}).values()
            for shard in [[own.tensor for own in one.local_shards()]]
        ]
        if hasattr(weight, "local_shards"):
            for i, shard in enumerate(weight.local_shards()):
                row, column = shard.metadata.shard_offsets
                yield table, shard.tensor, (row, column), [state[i] for state in states]
        else:
            own = sharded.dense[1].state.get(parameters[name], {})
            yield table, weight, (0, 0), list(own.values())


class Watch:
    """Looks at every weight and state before and after ids are mapped, as a test's remap."""

    def __init__(self, sharded):
        (self.maps,) = sharded.maps.values()
        self.sharded, self.evicted, self.resets, self.states = sharded, {}, 0, 0
        evict = self.maps._evict

        def noting(table, rows):
            self.evicted[table] = set(rows.tolist())
            evict(table, rows)

        self.maps._evict = noting
        sharded.model.module.tables.remap = self

    def __call__(self, sparse, *, training):
        before = [
            (weight.clone(), [state.clone() for state in states])
            for _, weight, _, states in optimiser_parts(self.sharded)
        ]
        self.evicted.clear()
        mapped = self.maps(sparse, training=training)
        for (table, weight, first, states), (old, old_states) in zip(
            optimiser_parts(self.sharded), before, strict=True
        ):
            self.check(table, weight, first, old)
            rows = range(first[0], first[0] + len(weight))
            gone = [i for i, row in enumerate(rows) if row in self.gone(table)]
            stay = [i for i, row in enumerate(rows) if row not in self.gone(table)]
            for state, old_state in zip(states, old_states, strict=True):
                assert (state[gone] == 0).all()
                assert torch.equal(state[stay], old_state[stay])
                self.states += int((old_state[gone] != 0).any())
        return mapped

    def gone(self, table):
        return self.evicted.get(table.split("/")[1], set())

    def check(self, table, weight, first, old):
        rows, columns = (range(at, at + size) for at, size in zip(first, weight.shape, strict=True))
        shape = self.sharded.tables[table]
        fresh = row_values(table, rows=rows, columns=columns, shape=shape, seed=SEED)
        for i, row in enumerate(rows):
            wanted = fresh[i] if row in self.gone(table) else old[i]
            assert torch.equal(weight[i], wanted), (table, row)
            self.resets += row in self.gone(table) and not torch.equal(old[i], fresh[i])


def body(ranks, folder):
    """Train every run; return its maps, rates and weights, and how many rows began anew."""
    found = {}
    for name, (place, kind, model) in RUNS.items():
        sharded = build(folder, ranks, place=place, kind=kind, model=model)
        watch = Watch(sharded)
        train(sharded, read_batches(folder, ranks=ranks)[:STEPS])
        (rates,) = [one.rates() for one in sharded.maps.values()]
        # What was counted is in the rates now.
        found[name] = (
            whole_maps(sharded),
            rates,
            local_weights(sharded),
            watch.resets,
            watch.states,
        )
    return found


@pytest.fixture(scope="module")
def trained(folder):
    return {world: run_ranks(body, world, folder, seconds=300) for world in WORLDS}


@pytest.mark.parametrize("name", RUNS)
def test_the_number_of_ranks_and_the_placement_change_no_map_and_no_model(trained, name):
    reference = trained[1][0]["row_wise"]
    model = join_weights([trained[1][0][name][2]])
    for world in WORLDS:
        for result in trained[world]:
            assert result[name][1] == reference[1]
            for array, values in result[name][0].items():
                np.testing.assert_array_equal(values, reference[0][array], err_msg=array)
        joined = join_weights([result[name][2] for result in trained[world]])
        # Column-wise with row-wise AdaGrad is another algorithm on each number of shards.
        if name != "mixed":
            assert largest_difference(joined, model)[0] < 2e-5


@pytest.mark.parametrize("name", RUNS)
def test_evicted_rows_began_anew_with_their_state(trained, name):
    for world in WORLDS:
        resets = [result[name][3] for result in trained[world]]
        states = [result[name][4] for result in trained[world]]
        assert sum(resets) > 15
        assert sum(states) > 5


def test_rates_add_up(trained):
    rates = trained[2][0]["row_wise"][1]
    for one in rates.values():
        assert one.hit_ratio + one.admitted_ratio + one.overflow_ratio == pytest.approx(1)
        assert one.admitted - one.evicted == round(one.filled_ratio * 24) or one.filled_ratio == 1
        assert 0.05 < one.overflow_ratio < 0.9
        assert one.evicted > 5
    assert rates["user"].lookups == 64 * STEPS


def eval_body(ranks, folder):
    """Score between training steps, or not; return whether it changed anything."""
    batches, maps = read_batches(folder, ranks=ranks), []
    for scores in (False, True):
        sharded = build(folder, ranks)
        for batch in batches[:4]:
            train(sharded, [batch])
            if scores:
                sharded.model.eval()
                with torch.no_grad():
                    one = sharded.model(batches[5]).logits
                    assert torch.equal(one, sharded.model(batches[5]).logits)
                sharded.model.train()
        maps.append((whole_maps(sharded), tensors_of(sharded.model.state_dict())))
    same = all(np.array_equal(maps[0][0][name], maps[1][0][name]) for name in maps[0][0])
    return same and differences(maps[0][1], maps[1][1]) == []


def test_scoring_leaves_no_trace(folder):
    assert run_ranks(eval_body, 2, folder) == [True, True]


SAVE_AT = 4


def save_body(ranks, folder, path, place):
    """Train straight, and with a save and a fresh start in the middle; return what differs."""
    batches = read_batches(folder, ranks=ranks)[:STEPS]
    straight = build(folder, ranks, place=place, model=TWO_SETS)
    train(straight, batches[:SAVE_AT])
    save_sharded(path, straight, meta={})
    at_save = whole_maps(straight)
    train(straight, batches[SAVE_AT:])
    other = build(folder, ranks, place=place, model=TWO_SETS)
    train(other, batches[:1])
    load_sharded(path, other)
    train(other, batches[SAVE_AT:])
    wrong = differences(
        tensors_of(straight.model.state_dict()), tensors_of(other.model.state_dict())
    )
    wrong += differences(
        tensors_of(straight.fused.state_dict()["state"]),
        tensors_of(other.fused.state_dict()["state"]),
    )
    one, two = whole_maps(straight), whole_maps(other)
    wrong += [name for name in one if not np.array_equal(one[name], two[name])]
    return wrong, at_save


@pytest.mark.parametrize("place", ["row_wise", "data_parallel"])
def test_a_resumed_run_is_bit_equal(folder, tmp_path, place):
    for wrong, at_save in run_ranks(save_body, 2, folder, tmp_path / "saved", place):
        assert wrong == []
        assert (at_save["tables.user.row_ids"] >= 0).sum() > 10


def chain_body(ranks, folder, source, target, place):
    sharded = build(folder, ranks, place=place, model=TWO_SETS)
    if source is None:
        train(sharded, read_batches(folder, ranks=ranks)[:STEPS])
    else:
        load_sharded(source, sharded)
    save_sharded(target, sharded, meta={})
    scored = build(folder, ranks, place=place, model=TWO_SETS)
    load_weights(target, scored)
    maps, other = whole_maps(sharded), whole_maps(scored)
    assert all(np.array_equal(maps[name], other[name]) for name in maps)
    return maps, local_weights(scored)


def test_maps_are_equal_after_resharding_there_and_back(folder, tmp_path):
    source, first = None, None
    chain = [(1, "table_wise"), (2, "row_wise"), (4, "column_wise"), (2, "mixed"), (1, "row_wise")]
    for number, (world, place) in enumerate(chain):
        target = tmp_path / str(number)
        results = run_ranks(chain_body, world, folder, source, target, place)
        whole = join_weights([weights for _, weights in results])
        first = first or (results[0][0], whole)
        for maps, _ in results:
            assert maps.keys() == first[0].keys()
            assert all(np.array_equal(maps[name], first[0][name]) for name in maps)
        assert largest_difference(whole, first[1])[0] == 0
        source = target
    assert (first[0]["tables.item.row_ids"] >= 0).all()
    assert first[0]["tables.step"].tolist() == [STEPS]


def best_body(ranks, folder):
    """Go back to a copy; return whether maps went back with the weights."""
    batches = read_batches(folder, ranks=ranks)
    sharded = build(folder, ranks)
    train(sharded, batches[:3])
    kept, before = copy_weights(sharded), whole_maps(sharded)
    train(sharded, batches[3:8])
    moved = whole_maps(sharded)
    put_weights(sharded, kept)
    after = whole_maps(sharded)
    names = [name for name in before if not name.endswith("tallies")]
    return [
        all(np.array_equal(before[name], one[name]) for name in names) for one in (after, moved)
    ]


def test_the_best_epoch_has_its_maps(folder):
    assert run_ranks(best_body, 2, folder) == [[True, False]] * 2


def refuse_body(ranks, folder):
    try:
        build(folder, ranks, ids=IdsConfig(ways=32))
    except UserError as error:
        return str(error), error.everywhere
    return None


def test_a_table_with_fewer_rows_than_ways_is_refused(folder):
    sentence = (
        "table user has 26 rows, too few for ids: managed with shard.ids.ways 32 and a row to"
        " share; give it more rows, fewer ways, or ids: hash"
    )
    assert run_ranks(refuse_body, 2, folder) == [(sentence, True)] * 2
