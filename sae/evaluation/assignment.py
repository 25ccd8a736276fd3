"""The assignment of rows to columns with the largest total weight (the Hungarian problem).

Shortest augmenting paths with dual prices (Jonker & Volgenant 1987), one row after another; each step of a path is one
pass over the columns in numpy.  Rows whose best column is still free cost one pass.
"""

from __future__ import annotations

import numpy as np


def best_assignment(weights_RC: np.ndarray) -> np.ndarray:
    """Return the column of each row so that no column is used twice and the sum of weights is largest: [R].

    Raises ValueError if there are more rows than columns, or a weight is not finite.
    """
    n_rows, n_columns = weights_RC.shape
    if n_rows > n_columns:
        raise ValueError(f"{n_rows} rows cannot have different columns out of {n_columns}")
    if not np.isfinite(weights_RC).all():
        raise ValueError("an assignment needs finite weights")
    price_C = np.zeros(n_columns)
    price_R = np.zeros(n_rows)
    row_of_C = np.full(n_columns, -1)
    for start in range(n_rows):
        _augment(start, weights_RC, price_R, price_C, row_of_C)
    column_R = np.empty(n_rows, dtype=np.int64)
    taken = np.flatnonzero(row_of_C >= 0)
    column_R[row_of_C[taken]] = taken
    return column_R


def _augment(
    start: int, weights_RC: np.ndarray, price_R: np.ndarray, price_C: np.ndarray, row_of_C: np.ndarray
) -> None:
    """Give row `start` a column, moving other rows along the shortest path, and update the prices."""
    n_columns = len(price_C)
    distance_C = np.full(n_columns, np.inf)
    before_C = np.full(n_columns, -1)  # the column before each column on its path; −1: the start
    done_C = np.zeros(n_columns, dtype=bool)
    row, column, length = start, -1, 0.0
    while True:
        reached_C = length - weights_RC[row] - price_R[row] - price_C
        shorter_C = ~done_C & (reached_C < distance_C)
        distance_C[shorter_C] = reached_C[shorter_C]
        before_C[shorter_C] = column
        column = int(np.where(done_C, np.inf, distance_C).argmin())
        length = float(distance_C[column])
        done_C[column] = True
        if row_of_C[column] < 0:
            break
        row = int(row_of_C[column])
    passed = np.flatnonzero(done_C)
    passed = passed[passed != column]
    price_R[start] += length
    price_R[row_of_C[passed]] += length - distance_C[passed]
    price_C[passed] -= length - distance_C[passed]
    while column >= 0:
        previous = int(before_C[column])
        row_of_C[column] = start if previous < 0 else row_of_C[previous]
        column = previous
