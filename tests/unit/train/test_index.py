"""The FAISS index: exact where it says so, near enough elsewhere, and its files."""

import json

import numpy as np
import pytest

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.train.index import (
    NOBODY,
    IndexConfig,
    build_index,
    load_index,
    save_index,
    search_exact,
)

NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))
TOP = 2**63 - 1


def draw(*, items=3000, queries=60, dim=16):
    """Return item vectors in forty clumps, of unlike lengths, and queries."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, dim))
    vectors = centres[rng.integers(40, size=items)] + 0.4 * rng.normal(size=(items, dim))
    vectors *= rng.uniform(0.7, 1.3, size=(items, 1))
    return vectors.astype(np.float32), rng.normal(size=(queries, dim)).astype(np.float32)


def brute_force(vectors, queries, k):
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def recall(found, exact):
    pairs = zip(found, exact, strict=True)
    return float(np.mean([len(set(one) & set(two)) / len(two) for one, two in pairs]))


def test_flat_and_the_exact_search_are_brute_force():
    vectors, queries = draw()
    wanted = brute_force(vectors, queries, 50)
    index = build_index(np.arange(len(vectors)), vectors, config=IndexConfig())
    for places, scores in (
        index.search(queries, k=50),
        search_exact(queries, vectors, k=50, hidden=NOTHING),
    ):
        assert recall(places, wanted) == 1.0
        np.testing.assert_array_equal(places[:, :5], wanted[:, :5])
        exact = np.take_along_axis(queries @ vectors.T, places, axis=1)
        np.testing.assert_allclose(scores, exact, rtol=1e-4, atol=1e-4)
        assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("config", "floor"),
    [
        (IndexConfig(kind="ivf", cells=50, probes=20), 0.95),
        (IndexConfig(kind="ivf", cells=50, probes=50), 1.0),
        (IndexConfig(kind="hnsw"), 0.95),
    ],
)
def test_near_searches_find_most(config, floor):
    vectors, queries = draw()
    index = build_index(np.arange(len(vectors)), vectors, config=config)
    assert recall(index.search(queries, k=20)[0], brute_force(vectors, queries, 20)) >= floor


def test_effort_is_what_recall_comes_from():
    vectors, queries = draw()
    wanted = brute_force(vectors, queries, 20)
    lazy = (IndexConfig(kind="ivf", cells=50, probes=1), IndexConfig(kind="hnsw", search_effort=1))
    for config in lazy:
        index = build_index(np.arange(len(vectors)), vectors, config=config)
        assert recall(index.search(queries, k=20)[0], wanted) < 0.95


def test_hidden_items_are_not_found_and_short_lists_are_filled_up():
    vectors, queries = draw(items=6, queries=3)
    best = brute_force(vectors, queries, 6)
    rows, places = np.array([0, 2, 2]), np.array([best[0, 0], best[2, 1], best[2, 0]])
    found, scores = search_exact(queries, vectors, k=8, hidden=(rows, places))
    np.testing.assert_array_equal(found[0], [*best[0, 1:], -1, -1, -1])
    np.testing.assert_array_equal(found[1], [*best[1], -1, -1])
    np.testing.assert_array_equal(found[2], [*best[2, 2:], -1, -1, -1, -1])
    assert np.isneginf(scores[found < 0]).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_saved_index_answers_alike_and_keeps_every_bit_of_a_key(tmp_path, kind):
    vectors, queries = draw(items=400)
    keys = np.sort(TOP - np.arange(400) * 3)
    built = build_index(keys, vectors, config=IndexConfig(kind=kind, cells=4))
    save_index(tmp_path / "index", built, version="v1", as_of=20260103)
    index, header = load_index(tmp_path / "index", version="v1")
    assert (header.version, header.as_of, header.dim, header.items) == ("v1", 20260103, 16, 400)
    (first, one), (second, two) = (each.search(queries, k=10) for each in (built, index))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one, two)
    assert index.keys_of(np.array([[399, -1]])).tolist() == [[TOP, NOBODY]]
    assert not list(tmp_path.glob(".*"))


def test_what_is_wrong_with_an_index_is_one_sentence(tmp_path):
    vectors, queries = draw(items=50)
    folder = tmp_path / "index"
    index = build_index(np.arange(50), vectors, config=IndexConfig())
    with pytest.raises(UserError, match="queries are 15 wide but the index holds vectors of 16"):
        index.search(queries[:, :15], k=3)
    with pytest.raises(UserError, match="the catalogue is empty"):
        build_index(np.zeros(0, np.int64), vectors[:0], config=IndexConfig())
    with pytest.raises(UserError, match="does not exist"):
        load_index(folder, version="v1")
    save_index(folder, index, version="v1", as_of=20260103)
    with pytest.raises(UserError, match="built for version v1, not v2"):
        load_index(folder, version="v2")
    file = folder / "items.faiss"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match=r"items\.faiss is missing or damaged"):
        load_index(folder, version="v1")
    file.write_bytes(good)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"items": 49}))
    with pytest.raises(UserError, match="disagrees with its"):
        load_index(folder, version="v1")


def test_an_index_is_replaced_whole(tmp_path):
    vectors, _ = draw(items=50)
    for count in (50, 20):
        index = build_index(np.arange(count), vectors[:count], config=IndexConfig())
        save_index(tmp_path / "index", index, version="v1", as_of=20260103)
        assert load_index(tmp_path / "index", version="v1")[1].items == count
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("kind: tree\n")
    with pytest.raises(UserError, match=r"flat.*ivf.*hnsw"):
        load_config(IndexConfig, [str(path)])
    with pytest.raises(ValueError, match=r"index\.probes must be positive"):
        IndexConfig(probes=0)
