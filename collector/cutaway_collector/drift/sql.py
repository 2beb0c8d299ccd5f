"""The distances as ClickHouse computes them, for any number of attributes in one query: equal to `distances` and to SciPy.

Each builder takes the text of a relation, one row a value or a cell of a sketch, and returns a SELECT with one row an attribute:

    numbers      attribute String, side UInt8 (0 reference, 1 now), x Float64, w Float64 (how often)
    categories   attribute String, side UInt8, label String, w Float64

Not where the relation comes from, and no values of users in the text: those are bound by whoever runs it.
"""

from __future__ import annotations

from typing import Final

from cutaway_collector.drift.distances import EPSILON, GROUPS
from cutaway_collector.drift.significance import EXPECTED_MIN

_P, _Q = f"if(r > 0, r / R, {EPSILON})", f"if(c > 0, c / C, {EPSILON})"
_PSI: Final = f"sum(({_Q} - {_P}) * log({_Q} / {_P}))"
_DIVERGENCE: Final = ("sum(if(r > 0, r / R * log2(r / R / ((r / R + c / C) / 2)), 0.) "
                      "+ if(c > 0, c / C * log2(c / C / ((r / R + c / C) / 2)), 0.)) / 2")


def numbers(relation: str) -> str:
    """SELECT attribute, reference_n, n, reference_mean, mean, reference_sd, ks, wasserstein, psi, jensen_shannon.

    wasserstein is in the values' unit; attributes that have no value on either side are left out.
    """
    ordered = "PARTITION BY attribute ORDER BY x"
    return f"""
SELECT attribute, any(R) AS reference_n, any(C) AS n, sum(rx) / reference_n AS reference_mean, sum(cx) / n AS mean,
    sqrt(sum(rxx) / reference_n) AS reference_sd, max(gap) AS ks, sum(area) AS wasserstein, {_PSI} AS psi,
    sqrt(greatest(0., {_DIVERGENCE})) AS jensen_shannon
FROM (
    SELECT attribute, R, C, least({GROUPS - 1}, floor({GROUPS} * (before - cell_r) / R)) AS part, sum(cell_r) AS r,
        sum(cell_c) AS c, sum(cell_r * x) AS rx, sum(cell_c * x) AS cx, sum(cell_r * (x - centre) * (x - centre)) AS rxx,
        max(abs(before / R - after / C)) AS gap, sum(abs(before / R - after / C) * (next - x)) AS area
    FROM (
        SELECT attribute, x, cell_r, cell_c, sum(cell_r) OVER ({ordered}) AS before, sum(cell_c) OVER ({ordered}) AS after,
            sum(cell_r) OVER (PARTITION BY attribute) AS R, sum(cell_c) OVER (PARTITION BY attribute) AS C,
            sum(cell_r * x) OVER (PARTITION BY attribute) / R AS centre,
            leadInFrame(x, 1, x) OVER ({ordered} ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS next
        FROM (SELECT attribute, x, sumIf(w, side = 0) AS cell_r, sumIf(w, side = 1) AS cell_c FROM ({relation})
            GROUP BY attribute, x)
    )
    WHERE R > 0 AND C > 0
    GROUP BY attribute, R, C, part
)
GROUP BY attribute ORDER BY attribute"""


def categories(relation: str) -> str:
    """SELECT attribute, reference_n, n, psi, jensen_shannon, chi_square, freedom, moved, reference_share, share.

    moved: the label whose share changed most, with both shares. Rare labels count as one for chi-square alone.
    """
    return f"""
SELECT attribute, any(R) AS reference_n, any(C) AS n, sum(stability) AS psi, sqrt(greatest(0., sum(divergence))) AS jensen_shannon,
    sum(pow(pooled_r - wanted_r, 2) / wanted_r + pow(pooled_c - wanted_c, 2) / wanted_c) AS chi_square,
    toInt64(count()) - 1 AS freedom, max(gap) AS most, most.2 AS moved, most.3 AS reference_share, most.4 AS share
FROM (
    SELECT attribute, R, C, (r + c) * least(R, C) / (R + C) < {EXPECTED_MIN} AS rare, if(rare, '', label) AS pool,
        sum(r) AS pooled_r, sum(c) AS pooled_c, (pooled_r + pooled_c) * R / (R + C) AS wanted_r,
        (pooled_r + pooled_c) * C / (R + C) AS wanted_c, {_PSI} AS stability, {_DIVERGENCE} AS divergence,
        max((abs(c / C - r / R), label, r / R, c / C)) AS gap
    FROM (
        SELECT attribute, label, r, c, sum(r) OVER (PARTITION BY attribute) AS R, sum(c) OVER (PARTITION BY attribute) AS C
        FROM (SELECT attribute, label, sumIf(w, side = 0) AS r, sumIf(w, side = 1) AS c FROM ({relation}) GROUP BY attribute, label)
    )
    WHERE R > 0 AND C > 0 AND r + c > 0
    GROUP BY attribute, R, C, rare, pool
)
GROUP BY attribute ORDER BY attribute"""


def exact_ks(relation: str) -> str:
    """SELECT attribute, ks, p: the exact two-sided test. Every cell is taken apart into its values: for small samples."""
    return f"""
SELECT attribute, kolmogorovSmirnovTest('two-sided', 'exact')(x, side) AS test, test.1 AS ks, test.2 AS p
FROM ({relation}) ARRAY JOIN range(toUInt64(w)) AS copy
GROUP BY attribute ORDER BY attribute"""
