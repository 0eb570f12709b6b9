"""ROUGE-L of a caption (Lin 2004), as pycocoevalcap has it: the best precision and the best recall over the references,
each of the longest common subsequence, and their F-measure with beta 1.2."""

from collections.abc import Sequence

BETA = 1.2


def subsequence(tokens: Sequence[str], others: Sequence[str]) -> int:
    """Length of the longest common subsequence, 64 cells of its table at a time or more (Hyyrö 2004): bit i of `open_`
    is 0 where the table grows by one at `tokens[i]`."""
    places: dict[str, int] = {}
    for at, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << at
    every = (1 << len(tokens)) - 1
    open_ = every
    for token in others:
        if here := places.get(token):
            met = open_ & here
            open_ = (open_ + met | open_ - met) & every
    return len(tokens) - open_.bit_count()


def rouge_l(caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Between 0 and 1. A caption without words is the one empty word, as in the published tool: so it equals another."""
    caption = caption or [""]
    precision = recall = 0.0
    for reference in references:
        reference = reference or [""]
        length = subsequence(caption, reference)
        precision, recall = max(precision, length / len(caption)), max(recall, length / len(reference))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
