"""How many directions of its space a table uses.

Dimension key: D rows of a table, K width.
"""

from typing import Any

import numpy as np
import numpy.typing as npt


def information_abundance(matrix_DK: npt.NDArray[Any]) -> float:
    """Return the sum of the singular values over the largest, between 1 and min(D, K).

    arXiv 2310.04400, Definition 1: 1 is a table collapsed to one direction. NaN for a table of
    zeros, which has no direction.
    """
    values_K = np.linalg.svd(matrix_DK.astype(np.float64), compute_uv=False)
    return float(values_K.sum() / values_K[0]) if values_K[0] else float("nan")
