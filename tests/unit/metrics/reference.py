"""Slow and plain versions of what the package computes, and data to compare on."""

import numpy as np
import torch

from lfm4ads.core.ranks import Ranks

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


def ads_rows(num_rows, *, seed=0, rate=0.1, ties=False):
    """Return logits whose signal is worth an AUC of about 0.76, labels and users."""
    generator = np.random.default_rng(seed)
    labels = generator.random(num_rows) < rate
    logits = (generator.normal(-6.0, 1.0, num_rows) + labels).astype(np.float32)
    if ties:
        logits = np.round(logits, 1)
    return logits, labels, generator.integers(0, max(1, num_rows // 8), num_rows)


def beats(positive, negative):
    return 1.0 if positive > negative else 0.5 if positive == negative else 0.0


def auc_by_pairs(scores, labels):
    positives, negatives = scores[labels], scores[~labels]
    return float(np.mean([[beats(p, n) for n in negatives] for p in positives]))


def covariance_by_pairs(score_sets, labels):
    """Return DeLong's covariance of AUCs, straight from the definition."""
    wins = [
        np.array([[beats(p, n) for n in scores[~labels]] for p in scores[labels]])
        for scores in score_sets
    ]
    rows = np.cov([table.mean(axis=1) for table in wins]) / wins[0].shape[0]
    return rows + np.cov([table.mean(axis=0) for table in wins]) / wins[0].shape[1]


def gauc_by_users(scores, labels, users):
    total = weight = 0.0
    for user in np.unique(users):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            total += mine.sum() * auc_by_pairs(scores[mine], labels[mine])
            weight += mine.sum()
    return total / weight
