"""The paper's results, to stand beside ours: arXiv 2404.00474, TriviaQA test set, question answering.

For orientation only: 11,313 questions, Llama 2 7B, and the API judges of 2024, which are retired.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """Accuracy and expected calibration error (20 equal-count bins), both in [0, 1]."""

    accuracy: float
    ece: float


TRIVIA_QA = {
    "Llama 2 7B 8-shot": Published(0.619, 0.381),
    "Claude Distill": Published(0.609, 0.391),
    "Factuality SFT": Published(0.612, 0.388),
    "Factuality RL": Published(0.633, 0.367),
    "Llama 2 7B summary 8-shot": Published(0.614, 0.257),
    "LC SFT": Published(0.610, 0.166),
    "LC RL": Published(0.647, 0.108),
}
