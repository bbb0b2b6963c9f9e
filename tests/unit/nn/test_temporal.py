"""The Temporal Interest Module against its formula, and what only the order of events can tell."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from lfm4ads.nn.temporal import TemporalConfig, TemporalInterest, gap_bucket

DIM, MAX_LENGTH = 8, 6
LENGTHS = torch.tensor([6, 1, 3, 0, 4])
BOTH = TemporalConfig()
POSITIONS, GAPS = TemporalConfig(gaps=False), TemporalConfig(positions=False)
NEITHER = TemporalConfig(positions=False, gaps=False)
HEADS = TemporalConfig(heads=2)


def build(config, *, dim=DIM):
    """Return a module in float64 whose time tables are as large as the embeddings."""
    module = TemporalInterest(dim, max_length=MAX_LENGTH, config=config).double()
    for table in (module.positions, module.gaps):
        if table is not None:
            torch.nn.init.normal_(table)
    return module


def history(lengths=LENGTHS):
    events = torch.randn(len(lengths), MAX_LENGTH, DIM, dtype=torch.float64)
    ages = torch.rand(len(lengths), MAX_LENGTH) * 10 ** torch.randint(0, 8, (1, MAX_LENGTH))
    return events, lengths, torch.randn(len(lengths), DIM, dtype=torch.float64), ages


def time_term(module, *, position, bucket):
    term = torch.zeros(DIM, dtype=torch.float64)
    term += 0 if module.positions is None else module.positions[position]
    return term + (0 if module.gaps is None else module.gaps[bucket])


def encoded(module, events, length, target, ages):
    """Return the encoded behaviours and target of one row."""
    behaviours = []
    for i in range(length):
        bucket = min(1 + math.floor(math.log2(1 + ages[i].item())), 31)
        behaviours.append(events[i] + time_term(module, position=length - i, bucket=bucket))
    return behaviours, target + time_term(module, position=0, bucket=0)


def attended(queries, keys, values):
    """Return the softmax-weighted sum of the values times the query, by loops."""
    scores = [math.exp(sum(queries * key).item() / math.sqrt(len(queries))) for key in keys]
    mixed = torch.zeros_like(queries)
    for score, value in zip(scores, values, strict=True):
        mixed += score / sum(scores) * value * queries
    return mixed


def by_loops(module, row, *, heads):
    behaviours, target = encoded(module, *row)
    if heads == 1:
        return attended(target, behaviours, behaviours)
    parts, width = [], DIM // heads
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        query, key, value = (one.weight[rows] for one in (module.query, module.key, module.value))
        keys, values = ([w @ one for one in behaviours] for w in (key, value))
        parts.append(attended(query @ target, keys, values))
    return torch.cat(parts)


@pytest.mark.parametrize("config", [BOTH, POSITIONS, GAPS, NEITHER, HEADS])
@torch.no_grad()
def test_it_is_the_formula_by_loops(config):
    module, inputs = build(config), history()
    output = module(*inputs)
    for row, found in zip(zip(*inputs, strict=True), output, strict=True):
        if row[1] == 0:
            assert torch.equal(found, torch.zeros_like(found))
        else:
            torch.testing.assert_close(
                found, by_loops(module, row, heads=config.heads), rtol=1e-12, atol=1e-12
            )


@torch.no_grad()
def test_it_is_the_weighted_mean_times_the_target():
    """(iii): sum_i a_i (e_i * v) = (sum_i a_i e_i) * v, in float32."""
    module = build(BOTH).float()
    events, lengths, target, ages = (
        one.float() if one.is_floating_point() else one for one in history()
    )
    slow = torch.zeros(len(lengths), DIM)
    for row in lengths.nonzero().flatten():
        behaviours, v = encoded(
            module.double(), events[row], int(lengths[row]), target[row], ages[row]
        )
        e = torch.stack(behaviours)
        weights = (e @ v / math.sqrt(DIM)).softmax(0)
        slow[row] = (weights[:, None] * (e * v)).sum(0).float()
    torch.testing.assert_close(
        module.float()(events, lengths, target, ages), slow, rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_the_time_of_one_behaviour_matters():
    """(i), first half: each row of p that is used, and no other, moves the rows that use it."""
    module, inputs = build(POSITIONS), history()
    before, table = module(*inputs), module.positions.clone()
    for position in range(MAX_LENGTH + 1):
        module.positions[position] += 1
        moved = (module(*inputs) - before).abs().amax(dim=1) > 1e-6
        module.positions.copy_(table)
        assert torch.equal(moved, (position <= LENGTHS) & (LENGTHS > 0)), position


@torch.no_grad()
def test_without_time_the_order_is_nothing_with_it_something():
    """(i), second half, and its control."""
    events, lengths, target, ages = history(torch.full((4,), MAX_LENGTH))
    shuffled = events[:, torch.tensor([3, 1, 5, 0, 4, 2])]
    zero = build(BOTH)
    zero.positions.zero_()
    zero.gaps.zero_()
    for module, same in ((zero, True), (build(NEITHER), True), (build(BOTH), False)):
        one, other = (module(some, lengths, target, ages) for some in (events, shuffled))
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12) is same


@pytest.mark.parametrize("config", [BOTH, HEADS])
def test_padding_has_no_weight_and_no_gradient(config):
    """(ii)."""
    module, (events, lengths, target, ages) = build(config), history()
    padding = torch.arange(MAX_LENGTH) >= lengths[:, None]
    before = module(events, lengths, target, ages)
    changed = torch.where(padding[..., None], 1e3 * torch.randn_like(events), events)
    changed.requires_grad_(True)
    other_ages = torch.where(padding, 7.0, ages)
    after = module(changed, lengths, target, other_ages)
    assert torch.equal(before, after)
    after.square().sum().backward()
    assert changed.grad[padding].abs().max() == 0
    assert (changed.grad[~padding].abs().sum(dim=1) > 0).all()
    longer = torch.cat([events, torch.ones(len(lengths), 2, DIM, dtype=torch.float64)], dim=1)
    module.positions = None  # its bound on the length is not the point
    assert torch.allclose(
        module(longer, lengths, target, torch.cat([ages, ages[:, :2]], dim=1)),
        module(events, lengths, target, ages),
        rtol=1e-13,
        atol=1e-13,
    )


@pytest.mark.parametrize("length", [0, MAX_LENGTH])
def test_a_batch_without_any_behaviour_is_zero_and_steps_nowhere(length):
    module, (events, _, target, ages) = build(HEADS), history()
    target.requires_grad_(True)
    output = module(events[:, :length], torch.zeros(5, dtype=torch.long), target, ages[:, :length])
    assert torch.equal(output, torch.zeros(5, DIM, dtype=torch.float64))
    output.sum().backward()
    for one in (target, *module.parameters()):
        assert one.grad is None or one.grad.abs().max() == 0


@pytest.mark.parametrize("config", [BOTH, HEADS])
def test_gradients_are_those_of_finite_differences(config):
    module, (events, lengths, target, ages) = build(config), history()
    tables = [module.positions, module.gaps]
    inputs = [one.detach().clone().requires_grad_(True) for one in (events, target, *tables)]

    def output(some_events, some_target, positions, gaps):
        weights = {"positions": positions, "gaps": gaps}
        arguments = (some_events, lengths, some_target, ages)
        return torch.func.functional_call(module, weights, arguments)

    assert torch.autograd.gradcheck(output, inputs)


def test_gradient_reaches_the_rows_of_the_times_seen():
    module, (events, lengths, target, ages) = build(BOTH), history()
    module(events, lengths, target, ages).sum().backward()
    real = torch.arange(MAX_LENGTH) < lengths[:, None]
    seen = {0, *gap_bucket(ages[real], buckets=32).tolist()}
    assert set(module.gaps.grad.abs().sum(1).nonzero().flatten().tolist()) == seen
    assert (module.positions.grad.abs().sum(1) > 0).all()


@torch.no_grad()
def test_variants_differ():
    inputs, outputs = history(), []
    for config in (BOTH, POSITIONS, GAPS, NEITHER):
        torch.manual_seed(1)
        outputs.append(build(config)(*inputs))
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-3 for other in outputs[:i])


def test_gaps_are_bucketed_exactly_at_powers_of_two():
    seconds = [0, 0.9, 1, 2.9, 3, 6.99, 7, 3599, 4094, 4095, 86_400, 2**24 - 1, 2**30, 1e12]
    wanted = [min(1 + math.floor(math.log2(1 + one)), 31) for one in seconds]
    assert gap_bucket(torch.tensor(seconds), buckets=32).tolist() == wanted
    assert wanted[:5] == [1, 1, 2, 2, 3]
    assert gap_bucket(torch.tensor([0.0, 1.0, 99.0]), buckets=2).tolist() == [1, 1, 1]


def test_what_does_not_fit_is_refused():
    for wrong, sentence in (
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"gap_buckets": 1}, "gap_buckets must be at least 2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            replace(BOTH, **wrong)
    with pytest.raises(ValueError, match="heads must divide the embedding width 8, got 3"):
        build(TemporalConfig(heads=3))
    events, lengths, target, ages = history()
    with pytest.raises(ValueError, match="ages of the behaviours are needed"):
        build(BOTH)(events, lengths, target, None)
    with pytest.raises(ValueError, match="7 behaviours exceeds max_length 6"):
        build(POSITIONS)(events[:, [0, *range(6)]], lengths, target, None)
    build(POSITIONS)(events, lengths, target, None)
    build(GAPS)(events, lengths, target, ages)


def last_category_toy(rows, generator):
    """Return histories that hold the target's category once, and whether it comes last.

    Only the order tells: category counts are the same for both labels.
    """
    lengths = torch.randint(2, MAX_LENGTH + 1, (rows,), generator=generator)
    target = torch.randint(0, 8, (rows,), generator=generator)
    others = torch.randint(1, 8, (rows, MAX_LENGTH), generator=generator)
    events = (target[:, None] + others) % 8
    label = torch.rand(rows, generator=generator) < 0.5
    early = (torch.rand(rows, generator=generator) * (lengths - 1)).long()
    at = torch.where(label, lengths - 1, early)
    events[torch.arange(rows), at] = target
    ages = 60.0 * 4.0 ** (lengths[:, None] - 1 - torch.arange(MAX_LENGTH)).clamp(min=0)
    return events, lengths, target, ages, label.float()


def learnt_auc(config, *, frozen):
    """Train embeddings, module and a linear head on the toy; return the AUC on rows not seen."""
    torch.manual_seed(5)
    table = torch.nn.Embedding(8, 16)
    module = TemporalInterest(16, max_length=MAX_LENGTH, config=config)
    head = torch.nn.Linear(16, 1)
    if frozen:
        for one in (module.positions, module.gaps):
            if one is not None:
                torch.nn.init.zeros_(one).requires_grad_(False)
    parameters = [p for part in (table, module, head) for p in part.parameters()]
    adam = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=0.02)
    generator = torch.Generator().manual_seed(6)

    def logits(events, lengths, target, ages):
        return head(module(table(events), lengths, table(target), ages)).squeeze(1)

    for _ in range(250):
        *inputs, label = last_category_toy(256, generator)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(*inputs), label)
        adam.zero_grad()
        loss.backward()
        adam.step()
    *inputs, label = last_category_toy(4000, generator)
    with torch.no_grad():
        return roc_auc_score(label, logits(*inputs))


@pytest.mark.parametrize("config", [POSITIONS, GAPS, TemporalConfig(heads=2)])
def test_that_the_last_category_is_the_targets_is_learnt_through_time_alone(config):
    """(iv): the frozen control cannot, whatever it is trained on."""
    assert learnt_auc(config, frozen=False) > 0.95
    assert learnt_auc(config, frozen=True) < 0.6
