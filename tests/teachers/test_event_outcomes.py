"""EventOutcomes against a plain restatement, event by event, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.batch import Events
from kernels.segments import Segments
from teachers.event_outcomes import EventOutcomes

DIM, HIDDEN, DOMAINS = 4, 5, 3
LENGTHS = [3, 0, 1, 4]
WINDOWS = {"click": 0, "order": 50}
NOW = 1000


def make_block(tasks: tuple[str, ...] = ("click", "order")) -> EventOutcomes:
    """Tasks of a schema that has `click` and `order`, in that order; nothing is left at its start."""
    torch.manual_seed(0)
    index = [list(WINDOWS).index(task) for task in tasks]
    windows = [WINDOWS[task] for task in tasks]
    block = EventOutcomes(DIM, HIDDEN, DOMAINS, tasks, index, windows, len(WINDOWS)).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block


def make_events(lengths: list[int], seed: int = 1) -> Events:
    """Ages of 10, 20, ... from the newest event of each row on."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    ages = [10 * (length - place) for length in lengths for place in range(length)]
    return Events(
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        item=torch.zeros(count, dtype=torch.int64),
        time=NOW - torch.tensor(ages, dtype=torch.int64),
        domain=torch.randint(DOMAINS, (count,), generator=generator),
        labels=torch.randint(-1, 2, (count, 2), generator=generator, dtype=torch.int8),
    )


def make_items(count: int, seed: int = 2) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def now_of(lengths: list[int]) -> Tensor:
    return torch.full((len(lengths),), NOW)


def told(block: EventOutcomes, labels: Tensor, item: Tensor) -> Tensor:
    """g[outcomes] ⊙ x: outcomes in base 3, the first task's digit the lowest."""
    click, order = (int(label) + 1 for label in labels)
    return block.outcome[click + 3 * order] * item


def hidden(block: EventOutcomes, item: Tensor, state: Tensor, surface: int) -> Tensor:
    """[h ‖ m] of one item."""
    product = item * (block.mix @ state)
    inputs = torch.cat([item, state, product, torch.eye(DOMAINS, dtype=torch.float64)[surface]])
    x = block.layer.weight @ inputs + block.layer.bias
    tasks = len(block.task_index)
    return torch.cat([x / (1 + torch.exp(-x)), torch.stack([product[k::tasks].sum() for k in range(tasks)])])


def rows(events: Events) -> list[range]:
    return [range(start, stop) for start, stop in zip(events.offsets, events.offsets[1:], strict=False)]


def restated_logits(block: EventOutcomes, events: Events, items: Tensor) -> Tensor:
    result = []
    for row in rows(events):
        so_far = torch.zeros(DIM, dtype=torch.float64)
        for place, t in enumerate(row):
            surface = int(events.domain[t])
            x = hidden(block, items[t], so_far / max(place, 1) ** 0.5, surface)
            result.append(block.heads.shared.weight @ x + block.heads.surface_bias.weight[surface])
            so_far = so_far + told(block, events.labels[t], items[t])
    return torch.stack(result)


def logits_of(block: EventOutcomes, events: Events, items: Tensor) -> Tensor:
    return block.logits(events, items, Segments.of(events.offsets, len(items)))


def test_every_event_is_predicted_from_those_before_it() -> None:
    block, events, items = make_block(), make_events(LENGTHS), make_items(sum(LENGTHS))
    expected = restated_logits(block, events, items)
    torch.testing.assert_close(logits_of(block, events, items), expected)


def test_item_at_hand_is_told_of_by_all_events() -> None:
    block, events, items = make_block(), make_events(LENGTHS), make_items(sum(LENGTHS))
    target, domain = make_items(len(LENGTHS), seed=3), torch.tensor([2, 0, 1, 1])
    expected = []
    for row, item, surface in zip(rows(events), target, domain, strict=True):
        state = sum((told(block, events.labels[t], items[t]) for t in row), torch.zeros(DIM).double())
        state = state / max(len(row), 1) ** 0.5
        token = block.token.weight @ hidden(block, item, state, int(surface)) + block.token.bias
        expected.append(torch.stack([token, state]))
    torch.testing.assert_close(block(events, items, target, domain), torch.stack(expected))


@pytest.mark.parametrize("tasks", [("click", "order"), ("order",)], ids=["both tasks", "the second alone"])
def test_loss_counts_known_outcomes_whose_window_has_closed(tasks: tuple[str, ...]) -> None:
    block, events, items = make_block(tasks), make_events([6, 0, 2]), make_items(8)
    logits = restated_logits(block, events, items)
    expected = torch.zeros(3, dtype=torch.float64)
    for b, row in enumerate(rows(events)):
        for t in row:
            for place, task in enumerate(tasks):
                y = int(events.labels[t, list(WINDOWS).index(task)])
                if y >= 0 and NOW - events.time[t] >= WINDOWS[task]:
                    p = 1 / (1 + torch.exp(-logits[t, place]))
                    expected[b] -= torch.log(p if y else 1 - p)
    torch.testing.assert_close(block.loss(events, items, now_of([6, 0, 2])), expected)


def test_own_outcome_and_later_events_are_not_seen() -> None:
    block, events, items = make_block(), make_events([4]), make_items(4)
    labels, other = events.labels.clone(), items.clone()
    labels[2:] = torch.tensor([[1, 0], [0, 1]]) - labels[2:].clamp_min(0)
    other[3] += 1
    changed = logits_of(block, replace(events, labels=labels), other)
    torch.testing.assert_close(changed[:3], logits_of(block, events, items)[:3], rtol=0, atol=0)
    assert not torch.equal(changed[3], logits_of(block, events, items)[3])


def test_at_the_start_an_item_once_clicked_matches_itself_and_one_refused_does_not() -> None:
    block = EventOutcomes(DIM, HIDDEN, DOMAINS, ("click", "order"), [0, 1], [0, 0], 2)
    item = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    matches = []
    for label in (1, 0, -1):
        events = replace(make_events([1]), labels=torch.tensor([[label, label]], dtype=torch.int8))
        state = block(events, item, item, torch.tensor([0]))[:, 1]
        matches.append(block._hidden(item, state, torch.tensor([0]))[0, HIDDEN:].tolist())
    assert matches == [[1 + 9, 4 + 16], [-10, -20], [0, 0]]


@pytest.mark.parametrize("lengths", [[0, 0], []], ids=["no events", "no examples"])
def test_nothing_to_learn_from_is_a_loss_of_zero(lengths: list[int]) -> None:
    block, events = make_block(), make_events(lengths)
    loss = block.loss(events, make_items(0), now_of(lengths))
    assert loss.tolist() == [0.0] * len(lengths)


def test_gradients_are_those_of_finite_differences() -> None:
    block, events = make_block(), make_events([3, 0, 2])
    domain = torch.tensor([0, 1, 2])
    items, target = make_items(5).requires_grad_(), make_items(3, seed=3).requires_grad_()

    def both(items: Tensor, target: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        return block(events, items, target, domain), block.loss(events, items, now_of([3, 0, 2]))

    assert torch.autograd.gradcheck(both, (items, target, block.outcome, block.mix))
