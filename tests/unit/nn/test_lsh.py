"""Hyperplane codes: near vectors, near codes, near embeddings."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from lfm4ads.nn.lsh import HyperplaneCode
from lfm4ads.nn.numerals import NumeralConfig, NumeralEncoder

BITS = 12


def bits_of(codes, *, bits=BITS):
    return codes.unsqueeze(-1) >> torch.arange(bits) & 1


def hamming(first, second, *, bits=BITS):
    return (bits_of(first, bits=bits) != bits_of(second, bits=bits)).sum(-1)


def test_bits_say_on_which_side_of_each_plane():
    code, vectors = HyperplaneCode(6, bits=BITS, seed=1), torch.randn(100, 6)
    found = code(vectors)
    assert found.dtype == torch.int64
    for vector, one in zip(vectors, found.tolist(), strict=True):
        wanted = [float(vector @ plane) > 0 for plane in code.planes.T]
        assert one == sum(2**bit for bit, side in enumerate(wanted) if side)
    assert found.min() >= 0
    assert found.max() < 2**BITS


def test_codes_differ_by_the_angle():
    # P(a bit differs) = angle / pi.
    code = HyperplaneCode(8, bits=62, seed=2)
    first, other = torch.linalg.qr(torch.randn(4000, 8, 2)).Q.unbind(-1)
    for share in (0.05, 0.25, 0.5, 1.0):
        angle = share * math.pi
        second = math.cos(angle) * first + math.sin(angle) * other
        found = hamming(code(first), code(second), bits=62).double().mean() / 62
        assert found.item() == pytest.approx(share, abs=0.02)


def test_a_duplicate_has_the_same_code_in_any_batch():
    code, vectors = HyperplaneCode(32, bits=40, seed=3), torch.randn(513, 32)
    whole = code(vectors)
    alone = torch.cat([code(vectors[row : row + 1]) for row in range(len(vectors))])
    assert torch.equal(whole, alone)
    assert torch.equal(code(vectors.repeat(3, 1)), whole.repeat(3))
    assert torch.equal(code(4 * vectors), whole)


def test_a_duplicate_creative_gets_the_same_prediction():
    code = HyperplaneCode(16, bits=BITS, seed=4)
    encoder = NumeralEncoder(1, levels=2**BITS, dim=8, config=NumeralConfig(bases=(2,)))
    top = torch.nn.Linear(8, 1)
    creatives = torch.randn(40, 16)
    ads = creatives[torch.arange(200) % 40]
    predictions = top(encoder(code(ads).unsqueeze(1)).squeeze(1))
    assert torch.equal(predictions[:40].repeat(5, 1), predictions)
    assert len(predictions.unique()) > 30


def distances(config):
    """Hamming distances and those of the embeddings, over all pairs of 600 codes."""
    codes = torch.randperm(2**BITS)[:600]
    encoder = NumeralEncoder(1, levels=2**BITS, dim=64, config=config)
    with torch.no_grad():
        embedded = encoder(codes.unsqueeze(1)).squeeze(1)
    pairs = torch.triu_indices(600, 600, offset=1)
    apart = (embedded[pairs[0]] - embedded[pairs[1]]).norm(dim=1)
    return hamming(codes[pairs[0]], codes[pairs[1]]), apart


def test_embeddings_in_base_2_are_as_far_as_the_codes():
    bits, apart = distances(NumeralConfig(bases=(2,)))
    means = [apart[bits == step].mean().item() for step in range(1, BITS + 1)]
    assert spearmanr(range(BITS), means).statistic > 0.99
    assert spearmanr(bits, apart).statistic > 0.8
    assert means[-1] > 2 * means[0], "and not by a hair"


def test_embeddings_in_base_3_are_not():
    # The means alone would not tell: they too rise a little.
    assert spearmanr(*distances(NumeralConfig(bases=(3,)))).statistic < 0.3


def test_seed_fixes_the_planes_and_state_carries_them():
    vectors = torch.randn(50, 6)
    first, same, other = (HyperplaneCode(6, bits=20, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first(vectors), same(vectors))
    assert not torch.equal(first(vectors), other(vectors))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(vectors), other(vectors))
    assert list(first.parameters()) == []


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    wanted = torch.randn(3)
    torch.manual_seed(0)
    HyperplaneCode(6, bits=20, seed=5)
    assert torch.equal(torch.randn(3), wanted)


def test_missing_vectors_have_no_code():
    vectors = torch.randn(4, 6)
    vectors[1] = torch.nan
    vectors[2, 4] = torch.nan
    vectors[3] = 0.0
    found = HyperplaneCode(6, bits=20, seed=5)(vectors).tolist()
    assert found[0] >= 0
    assert found[1:] == [-1, -1, -1]


@pytest.mark.parametrize("bits", [0, 63])
def test_bits_that_no_code_holds_are_refused(bits):
    with pytest.raises(ValueError, match=f"between 1 and 62, got {bits}"):
        HyperplaneCode(6, bits=bits, seed=0)


def test_the_longest_code_is_not_negative():
    code = HyperplaneCode(6, bits=62, seed=0)
    assert code(torch.randn(500, 6)).min() >= 0
    assert code(code.planes.sum(1).unsqueeze(0)).item() > 2**40
