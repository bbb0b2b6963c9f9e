"""Random numbers and keys as pure functions of an index, so that nothing about an entity is stored.

Dimension key: N indices, K columns.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(words: Words) -> Words:
    """Return splitmix64's finaliser of every word: a bijection whose bits look independent."""
    mixed = words ^ (words >> np.uint64(30))
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed


def salt(seed: int, *, purpose: str) -> np.uint64:
    """Return a word that keeps the draws of one purpose apart from those of another."""
    words = np.frombuffer(purpose.encode().ljust(32, b"\0")[:32], dtype=np.uint64).copy()
    state = np.array([seed % 2**64], dtype=np.uint64)
    for word in words:
        state = mix(state * _GOLDEN + word)
    return np.uint64(state[0])


def hash_words(index_N: Ints, *, seed: int, purpose: str, columns: int = 1) -> Words:
    """Return 64 independent bits for every index and column, shape (N, K)."""
    state_N = mix(index_N.astype(np.uint64) * _GOLDEN + salt(seed, purpose=purpose))
    steps_K = np.arange(1, columns + 1, dtype=np.uint64) * _GOLDEN
    return mix(state_N[:, None] + steps_K)


def uniforms(index_N: Ints, *, seed: int, purpose: str, columns: int = 1) -> Floats:
    """Return uniforms in (0, 1), shape (N, K)."""
    words = hash_words(index_N, seed=seed, purpose=purpose, columns=columns)
    return _unit(words >> np.uint64(41), bits=23)


def normals(index_N: Ints, *, seed: int, purpose: str, columns: int) -> Floats:
    """Return standard normals, shape (N, K), by Box and Muller's transform: two from each word."""
    pairs = (columns + 1) // 2
    words = hash_words(index_N, seed=seed, purpose=purpose, columns=pairs)
    radius = np.sqrt(np.float32(-2.0) * np.log(_unit(words >> np.uint64(41), bits=23)))
    angle = _unit(words & np.uint64(2**23 - 1), bits=23) * np.float32(2 * np.pi)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :columns]


def permute(index_N: Ints, *, bits: int, seed: int, purpose: str) -> Ints:
    """Return keys in [0, 2^bits): a seeded bijection of [0, 2^bits) onto itself.

    Addition, multiplication by an odd number and x ^ (x >> s) are each invertible modulo 2^bits,
    hence so is their composition.
    """
    mask = np.uint64(2**bits - 1)
    shift = np.uint64(max(1, bits // 2))
    words = index_N.astype(np.uint64)
    for turn in range(3):
        constant = salt(seed, purpose=f"{purpose} {turn}")
        words = (words + (constant >> np.uint64(7))) & mask
        words = (words * (constant | np.uint64(1))) & mask
        words ^= words >> shift
    return words.astype(np.int64)


def _unit(words: Words, *, bits: int) -> Floats:
    """Map integers below 2^bits to the middles of as many equal parts of (0, 1)."""
    return (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-bits)
