"""Placement, kernels, optimisers and resume on CUDA with nccl: one rank and one device suffice."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore

from lfm4ads.core.ranks import connect
from lfm4ads.shard.comm import CommConfig
from lfm4ads.shard.kernel import KernelConfig
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.state import copy_weights, load_sharded, put_weights, save_sharded
from lfm4ads.train.loop import train_pass
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.multiproc.jobs import BATCH_SIZE, INTEREST
from tests.multiproc.jobs import build as build_lfm
from tests.multiproc.matrix import KINDS, OPTIMISERS, Hosts, build, mine, reference, train
from tests.worlds import write_tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ALONE = Hosts(1, 1)
CACHED = KernelConfig(kind="fused_uvm_caching", cache_ratio=0.2)


@pytest.fixture(scope="module")
def ranks():
    """A job of one rank on the first device, with nccl."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFM4ADS_DEVICE", "cuda")
        job = connect(0, 1, HashStore())
    yield job
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("gpu") / "data", days=1, rows=370)


def weights_of(sharded):
    """Return whole weights, which one rank has, as arrays."""
    found = {}
    for name, value in sharded.model.state_dict().items():
        shards = value.local_shards() if hasattr(value, "local_shards") else []
        parts = [shard.tensor for shard in shards] or [value]
        assert len(parts) == 1
        found[name] = parts[0].detach().cpu().numpy().copy()
    return found


def distance(one, other):
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def trained(ranks, **options):
    sharded = build(ranks, **options)
    train(sharded, mine(ranks))
    return weights_of(sharded)


def test_the_device_is_a_gpu(ranks):
    assert ranks.device.type == "cuda"
    assert dist.get_backend() == "nccl"
    assert all(value.is_cuda for value in build(ranks).model.parameters())


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_of_every_kind_are_those_of_one_process_on_cpu(ranks, kind, optimiser):
    found = trained(ranks, kind=kind, optimiser=optimiser)
    assert distance(found, reference(kind, optimiser, hosts=ALONE)) < 1e-4


@pytest.mark.parametrize("kernel", [KernelConfig(kind="fused_uvm"), CACHED])
def test_host_memory_and_its_cache_learn_the_same(ranks, kernel):
    plain = trained(ranks, place=PlaceConfig(default="table_wise"))
    other = trained(ranks, place=PlaceConfig(default="table_wise", kernel=kernel))
    assert distance(plain, other) < 1e-5


def test_weights_put_back_are_seen_through_the_cache(ranks):
    sharded = build(ranks, place=PlaceConfig(default="table_wise", kernel=CACHED))
    sparse, _ = mine(ranks)[0]
    with torch.no_grad():
        first = sharded.model(sparse.to(ranks.device)).clone()
    weights = copy_weights(sharded)
    train(sharded, mine(ranks))
    put_weights(sharded, weights)
    with torch.no_grad():
        assert torch.equal(sharded.model(sparse.to(ranks.device)), first)


def adam_steps(ranks):
    """Return tables after Adam as FBGEMM words it: rows that were looked up move, others rest."""
    sharded = build(ranks, optimiser="adam")
    first = weights_of(sharded)
    sparse, labels = mine(ranks)[0]
    logits = sharded.model(sparse.to(ranks.device))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(ranks.device))
    sharded.step(loss)
    return first, weights_of(sharded), sparse["user"].values().unique().numpy(), sharded.optim


def test_the_first_step_of_adam_moves_what_was_read_by_the_rate(ranks):
    first, after, rows, config = adam_steps(ranks)
    moved = after["bags.embedding_bags.user.weight"] - first["bags.embedding_bags.user.weight"]
    # m / sqrt(v) is the gradient's sign in the first step.
    np.testing.assert_allclose(np.abs(moved[rows]), config.sparse_lr, rtol=1e-2)
    others = np.setdiff1d(np.arange(len(moved)), rows)
    assert (moved[others] == 0).all()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_codecs_are_taken(ranks, precision):
    comm = CommConfig(forward=precision, backward=precision)
    assert distance(trained(ranks), trained(ranks, comm=comm)) < 1e-2


@pytest.mark.parametrize("optimiser", ["rowwise_adagrad", "adam"])
def test_a_restarted_run_is_the_straight_run(ranks, tmp_path, optimiser):
    straight = build(ranks, optimiser=optimiser)
    steps = mine(ranks)
    train(straight, steps[:4])
    save_sharded(tmp_path / "half", straight, meta={"step": 4})
    train(straight, steps[4:])
    other = build(ranks, optimiser=optimiser, seed=99)
    assert load_sharded(tmp_path / "half", other)["step"] == 4
    train(other, steps[4:])
    # Atomic additions on the device have no order.
    assert distance(weights_of(straight), weights_of(other)) < 1e-6


def test_pipelined_training_of_the_foundation_model_is_the_plain_loop(ranks, folder):
    batches, results = read_batches(folder), []
    for pipelined in (False, True):
        sharded = build_lfm(folder, ranks, model=INTEREST)
        sharded.pipelined = pipelined
        done = train_pass(
            sharded,
            copy.copy(batches),
            loss=lambda batch, sharded=sharded: masked_bce(sharded.model(batch).logits, batch),
            batch_size=BATCH_SIZE,
            explain=lambda _: "unknown",
        )
        results.append((done.loss, weights_of(sharded)))
    (loss, plain), (other_loss, overlapped) = results
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert distance(plain, overlapped) < 1e-5
