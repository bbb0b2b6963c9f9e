"""Similarity embeddings: which level a pair has, and that they carry what the cosine does."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lfm4ads.nn.numerals import NumeralConfig
from lfm4ads.nn.similarity import SimilarityEncoder, similarity_levels


def pairs(rows=200, length=6):
    return torch.randn(rows, length), torch.randn(rows, length)


def pair_of(cosine):
    """Two vectors of the plane with a given cosine."""
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    second = torch.stack([angle.cos(), angle.sin()]).unsqueeze(0)
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64), second


@pytest.mark.parametrize("levels", [16, 1024])
def test_level_is_the_floor_of_the_cosine_on_the_scale(levels):
    user, item = pairs()
    found = similarity_levels(user, item, levels=levels)
    cosine = torch.cosine_similarity(user.double(), item.double())
    assert torch.equal(found, ((cosine + 1) / 2 * (levels - 1)).floor().long())


@pytest.mark.parametrize(
    ("cosine", "level"), [(-1.0, 0), (0.0, 511), (0.3, 664), (0.5, 767), (1.0, 1023)]
)
def test_known_cosines_have_known_levels(cosine, level):
    assert similarity_levels(*pair_of(cosine), levels=1024).item() == level


def test_equal_and_opposite_vectors_reach_the_ends():
    user, _ = pairs(5000)
    assert set(similarity_levels(user, user, levels=1024).tolist()) == {1023}
    assert set(similarity_levels(user, 3 * user, levels=1024).tolist()) == {1023}
    assert set(similarity_levels(user, -0.7 * user, levels=1024).tolist()) == {0}


def test_length_changes_nothing():
    encoder, (user, item) = SimilarityEncoder(8), pairs()
    plain = encoder(user, item)
    assert torch.equal(encoder(10 * user, item), plain)
    assert torch.equal(encoder(user, 1e-6 * item), plain)
    assert not torch.equal(encoder(user + 1, item), plain), "but direction does"


def test_missing_vectors_have_the_missing_row():
    encoder, (user, item) = SimilarityEncoder(8), pairs(5)
    user[0] = torch.nan
    item[1, 3] = torch.nan
    user[2] = 0.0
    found = encoder(user, item)
    assert similarity_levels(user, item, levels=1024).tolist()[:3] == [-1, -1, -1]
    missing = torch.cat([encoder.numerals.weight[name][0, -1] for name in ("base2", "base3")])
    assert torch.equal(found[:3], missing.expand(3, -1))
    for row in found[3:]:
        assert not torch.equal(row, missing)


def test_external_vectors_get_no_gradient_and_the_rows_do():
    encoder = SimilarityEncoder(8, config=NumeralConfig(bases=(2,)))
    user, item = (one.requires_grad_() for one in pairs())
    encoder(user, item).square().sum().backward()
    assert user.grad is None
    assert item.grad is None
    assert encoder.numerals.weight["base2"].grad[0, :-1].abs().min() > 0


class IdsAndSimilarity(nn.Module):
    """[ID_u, ID_a, e_sim] into one linear layer."""

    def __init__(self, users, items, *, similarity_scale):
        super().__init__()
        self.users, self.items = nn.Embedding(users, 4), nn.Embedding(items, 4)
        self.similarity = SimilarityEncoder(8)
        self.top = nn.Linear(16, 1)
        self.scale = similarity_scale

    def forward(self, users_B, items_B, vectors):
        near_BD = self.similarity(vectors[0][users_B], vectors[1][items_B])
        parts = [self.users(users_B), self.items(items_B), self.scale * near_BD]
        return self.top(torch.cat(parts, dim=1)).squeeze(1)


@pytest.mark.parametrize(("scale", "low", "high"), [(1.0, 0.99, 1.0), (0.0, 0.43, 0.57)])
def test_a_label_of_the_cosine_is_learned_through_this_branch_alone(scale, low, high):
    vectors = pairs(300, length=6)
    users, items = torch.randint(300, (2, 6000))
    label = (torch.cosine_similarity(vectors[0][users], vectors[1][items]) > 0.3).float()
    model = IdsAndSimilarity(300, 300, similarity_scale=scale)
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        adam.zero_grad()
        logits = model(users[:4000], items[:4000], vectors)
        nn.functional.binary_cross_entropy_with_logits(logits, label[:4000]).backward()
        adam.step()
    with torch.no_grad():
        found = model(users[4000:], items[4000:], vectors)
    assert low <= roc_auc_score(label[4000:], found) <= high
