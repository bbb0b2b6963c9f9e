"""Experts, what tasks read and train, and the merge."""

import pytest
import torch
import torch.nn.functional as F

from lfm4ads.core.errors import UserError
from lfm4ads.nn.access import plan_access
from lfm4ads.nn.experts import Access, ExpertConfig, Merge, MergeConfig
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.interactions.dcnv2 import CrossNetwork
from tests.unit.nn.merging import merged

EXPERTS = {
    "a": ExpertConfig(tables="one"),
    "b": ExpertConfig(tables="two"),
    "c": ExpertConfig(tables="two", interaction=InteractionConfig(kind="flat")),
}
TASKS = ["click", "like", "buy"]
NARROW = {"reads": {"like": ["two"]}, "trains": {"click": ["one"]}}
KINDS = ("mean", "learned", "gate")


def access_of(*, streams=TASKS, reads=None, trains=None):
    return plan_access(
        EXPERTS, tasks=TASKS, streams=streams, reads=reads or {}, trains=trains or {}
    )


def test_a_task_not_named_reads_and_trains_everything():
    access = access_of()
    assert access.reads.all()
    assert access.trains.all()
    assert access.reads.shape == (3, 3)
    assert access_of(streams=[""]).reads.tolist() == [[True] * 3]


def test_sets_become_experts_in_both_matrices():
    access = access_of(**NARROW)
    assert access.reads.tolist() == [[True] * 3, [False, True, True], [True] * 3]
    assert access.trains.tolist() == [[True, False, False], [False, True, True], [True] * 3]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"reads": {"share": ["one"]}}, r"model\.reads names task share; the tasks are click, lik"),
        ({"trains": {"share": ["one"]}}, r"model\.trains names task share; the tasks are click"),
        (
            {"reads": {"click": ["three", "one"]}},
            r"model\.reads\.click names three, which is no table set that an expert reads",
        ),
        (
            {"trains": {"buy": ["four"]}},
            r"which is no table set that an expert reads, and no expert; there are one, two, a,",
        ),
        (
            {"reads": {"click": ["one"]}, "streams": [""]},
            r"model\.reads, model\.trains and owners of experts tell tasks apart; set merge\.per_",
        ),
        ({"reads": {"like": []}}, "task like must train at least one expert, and only experts tha"),
        ({"trains": {"like": []}}, "task like must train at least one expert"),
        (
            {"reads": {"like": ["one"]}, "trains": {"like": ["two"]}},
            "task like must train at least one expert, and only experts that it reads",
        ),
    ],
)
def test_words_that_do_not_fit_are_refused_on_every_rank(words, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        access_of(**words)
    assert caught.value.everywhere


def test_an_expert_without_a_non_linearity_is_refused():
    with pytest.raises(ValueError, match="needs at least one hidden layer before experts are mer"):
        ExpertConfig(hidden=())


def build(kind, access, **options):
    merge = Merge(access, config=MergeConfig(kind=kind, **options), gate_widths=[6, 4, 4])
    for parameter in merge.parameters():
        torch.nn.init.normal_(parameter)
    return merge


@pytest.fixture
def h():
    return torch.randn(7, 3, 5).requires_grad_()


@pytest.fixture
def fields():
    return [torch.randn(7, width) for width in (6, 4, 4)]


@pytest.mark.parametrize("words", [{}, NARROW], ids=["all", "narrow"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_weighted_sum_by_loops(kind, words, h, fields):
    access = access_of(**words)
    merge = build(kind, access, gate_hidden=(8,) if kind == "gate" else ())
    found, weights = merged(merge, h, fields)
    assert weights.shape == (7, 3, 3)
    for row in range(7):
        for stream in range(3):
            read = access.reads[stream].tolist()
            if kind == "mean":
                share = torch.tensor(read) / sum(read)
            elif kind == "learned":
                share = merge.weight[stream] * torch.tensor(read)
            else:
                # The second and third expert read one set, whose fields a gate sees once.
                sees = (access.trains[stream] & torch.tensor([True, True, False])).tolist()
                seen = [x[row] for x, one in zip(fields, sees, strict=True) if one]
                logits = merge.gates[stream](torch.cat(seen)[None])[-1][0]
                share = torch.softmax(logits.masked_fill(~torch.tensor(read), -torch.inf), dim=0)
            torch.testing.assert_close(weights[row, stream], share)
            wanted = sum(share[m] * h[row, m] for m in range(3))
            torch.testing.assert_close(found[row, stream], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_does_not_read_weighs_exactly_nothing(kind, h, fields):
    found, weights = merged(build(kind, access_of(**NARROW)), h, fields)
    assert not weights[:, 1, 0].any()
    found[:, 1].sum().backward()
    assert not h.grad[:, 0].any()
    assert h.grad[:, 1:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_reads_and_does_not_train_gets_exactly_no_gradient(kind, h, fields):
    merge = build(kind, access_of(**NARROW))
    for stream, row in enumerate(access_of(**NARROW).trains.tolist()):
        h.grad = None
        merge.zero_grad()
        merged(merge, h, fields)[0][:, stream].square().sum().backward()
        for expert, trained in enumerate(row):
            assert bool(h.grad[:, expert].any()) == trained
    # The weight of an expert that stands still is learnt all the same.
    if kind == "learned":
        merge.zero_grad()
        merged(merge, h, fields)[0][:, 0].square().sum().backward()
        assert merge.weight.grad[0].all()


@pytest.mark.parametrize("kind", KINDS)
def test_trains_equal_to_reads_lets_every_gradient_through(kind, h, fields):
    """The negative control, with the same values."""
    still, free = access_of(**NARROW), access_of(reads=NARROW["reads"])
    one, other = build(kind, still), build(kind, free)
    other._kind, other.gates = one._kind, getattr(one, "gates", None)
    if kind == "gate":  # computed from the same fields, so that only the stop-gradient differs
        other._sees = one._sees
    other.load_state_dict(one.state_dict())
    assert torch.equal(merged(one, h, fields)[0], merged(other, h, fields)[0])
    merged(other, h, fields)[0][:, 0].square().sum().backward()
    assert all(h.grad[:, expert].any() for expert in range(3))


def test_weights_start_as_a_mean_of_what_is_read():
    merge = Merge(access_of(**NARROW), config=MergeConfig(kind="learned"), gate_widths=[6, 4, 4])
    torch.testing.assert_close(merge.weight[1], torch.tensor([0.0, 0.5, 0.5]))
    torch.testing.assert_close(merge.weight.sum(1), torch.ones(3))


@pytest.mark.parametrize("kind", ["mean", "gate"])
def test_weights_are_shares(kind, h, fields):
    _, weights = merged(build(kind, access_of(**NARROW)), h, fields)
    torch.testing.assert_close(weights.sum(2), torch.ones(7, 3))
    assert (weights >= 0).all()


def blocks(layers=2):
    """Two sets of widths 4 and 3, each with a cross network, a linear map and the mean of both."""
    crosses = [CrossNetwork(width, layers=layers).double() for width in (4, 3)]
    maps = [torch.randn(6, width, dtype=torch.float64) for width in (4, 3)]
    return crosses, maps


def by_sets(crosses, maps, x, *, activation):
    parts = torch.split(x, [4, 3], dim=1)
    outputs = [
        activation(F.linear(cross(part)[-1], weight))
        for cross, weight, part in zip(crosses, maps, parts, strict=True)
    ]
    h = torch.stack(outputs, dim=1)
    reads = torch.ones(1, 2, dtype=torch.bool)
    merge = Merge(Access(reads, reads), config=MergeConfig(), gate_widths=[4, 3])
    return merged(merge, h.float(), parts)[0][:, 0].double()


def as_one_set(crosses, maps, x):
    """The block-diagonal single model of the appendix: one set of the summed width."""
    single = CrossNetwork(7, layers=2).double()
    for layer, *pair in zip(single.layers, *(cross.layers for cross in crosses), strict=True):
        layer.weight.copy_(torch.block_diag(*(one.weight for one in pair)))
        layer.bias.copy_(torch.cat([one.bias for one in pair]))
    return F.linear(single(x)[-1], torch.cat(maps, dim=1) / 2)


@torch.no_grad()
def test_without_the_non_linearity_several_sets_are_one_set_of_their_width():
    """Why an expert must have a hidden layer (arXiv 2310.04400, appendix)."""
    crosses, maps = blocks()
    x = torch.randn(50, 7, dtype=torch.float64)
    one = as_one_set(crosses, maps, x)
    torch.testing.assert_close(
        by_sets(crosses, maps, x, activation=torch.nn.Identity()), one, rtol=1e-5, atol=1e-5
    )
    with_relu = by_sets(crosses, maps, x, activation=torch.relu)
    assert (with_relu - one.relu()).abs().max() > 0.1
    assert (with_relu - one).abs().max() > 0.1
