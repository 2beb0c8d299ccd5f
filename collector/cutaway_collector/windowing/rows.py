"""Window scores as rows of gen_ai_window_scores. Computes none and stores none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.columns import WINDOW_SCORES
from cutaway_collector.windowing.reader import Group, Window
from cutaway_collector.windows import VERSION, WindowScore


def block(window: Window, judged: Sequence[tuple[Group, WindowScore]], *, now_ms: int) -> Block:
    """One row a score, the store's own IngestedAt left to it. now_ms: milliseconds since 1970, the rows' Version."""
    groups, scores = [group for group, _ in judged], [score for _, score in judged]
    count = len(judged)
    offsets = np.concatenate([[0], np.cumsum([len(score.examples) for score in scores])]).astype(np.int64)
    made = Block(WINDOW_SCORES.name, count, {
        "WindowStart": np.full(count, window.start_s, np.uint32),
        "WindowSeconds": np.full(count, window.seconds, np.uint32),
        "TenantId": Strings.of([group.tenant for group in groups]),
        "ServiceName": Strings.of([group.service for group in groups]),
        "ResponseModel": Strings.of([group.model for group in groups]),
        "Route": Strings.of([group.route for group in groups]),
        "PromptTemplate": Strings.of([group.template for group in groups]),
        "ScoreName": Strings.of([score.name for score in scores]),
        "Value": np.array([score.value for score in scores], np.float64),
        "Count": np.array([score.count for score in scores], np.uint32),
        "Answers": np.array([group.answers for group in groups], np.uint64),
        "Label": Strings.of([score.label for score in scores]),
        "Explanation": Strings.of([score.explanation for score in scores]),
        "Examples": Lists(offsets, Strings.of([trace for score in scores for trace in score.examples])),
        "ScorerVersion": Strings.repeat(VERSION, count),
        "Version": np.full(count, now_ms, np.uint64),
    })
    made.check()
    return made
