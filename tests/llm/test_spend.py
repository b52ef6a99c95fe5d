"""Counting, and stopping before more is spent than was allowed."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_llm import Answer, FakeLlm
from llm_clients import question, settings_for, talk
from raylens.chat import Reply
from raylens.errors import RunError
from raylens.llm.errors import BudgetReached
from raylens.llm.settings import EndpointSettings, Prices
from raylens.llm.spend import Meter, Usage, worst_case_usd

DOLLAR_A_TOKEN = {"prompt_usd_per_million": 0, "completion_usd_per_million": 1_000_000}


def test_the_worst_case_is_a_token_a_byte_and_a_whole_answer() -> None:
    prices = Prices(prompt_usd_per_million=1_000_000, completion_usd_per_million=10_000_000)
    settings = EndpointSettings(base_url="http://localhost/v1", model="m", prices=prices)
    texts = ["ab", "é家"]
    assert worst_case_usd(texts, 3, settings) == 64 + (16 + 2) + (16 + 5) + 10 * 3
    assert worst_case_usd(texts, 3, EndpointSettings(base_url="http://localhost/v1", model="m")) == 0


@pytest.mark.parametrize("concurrency", [1, 3, 32])
def test_the_budget_stops_mid_run_and_is_never_passed(llm: FakeLlm, concurrency: int) -> None:
    # At most $10 a call, in truth $2: the sixth call still fits (10 + 10 ≤ 20), the seventh could not (12 + 10).
    llm.respond = lambda asked: Answer(asked.prompt, usage={"prompt_tokens": 9, "completion_tokens": 2})
    settings = settings_for(llm, prices=DOLLAR_A_TOKEN, budget_usd=20, max_concurrency=concurrency)
    found = talk(settings, *(question(f"q{i}", max_tokens=10) for i in range(30)))
    stopped = [one for one in found.outcomes if isinstance(one, BudgetReached)]
    assert len(llm.asked) == 6
    assert (found.usage.calls, found.usage.usd, found.usage.failed) == (6, 12.0, 0)
    assert sum(isinstance(one, Reply) for one in found.outcomes) == 6
    assert len(stopped) == 24
    assert isinstance(stopped[0], RunError)
    assert "$12.0000 was spent in 6 calls" in stopped[0].message
    assert "--budget-usd" in stopped[0].hint


def test_a_call_that_could_cost_more_than_the_whole_budget_is_not_sent(llm: FakeLlm) -> None:
    settings = settings_for(llm, prices=DOLLAR_A_TOKEN, budget_usd=9.99)
    [outcome] = talk(settings, question(max_tokens=10)).outcomes
    assert isinstance(outcome, BudgetReached)
    assert llm.asked == []


@pytest.mark.parametrize("concurrency", [1, 32])
def test_the_limit_of_calls_counts_retries(llm: FakeLlm, concurrency: int) -> None:
    llm.script.append(Answer.error(500))
    found = talk(settings_for(llm, max_calls=7, max_concurrency=concurrency), *(f"q{i}" for i in range(20)))
    assert len(llm.asked) == 7
    assert (found.usage.calls, found.usage.failed) == (7, 0)
    errors = [one for one in found.outcomes if isinstance(one, BudgetReached)]
    assert "limit of 7 calls" in errors[0].message
    assert "--max-calls" in errors[0].hint
    assert len(errors) == 14  # six were answered: one call of the seven met the 500


def test_no_calls_at_all_may_be_allowed(llm: FakeLlm) -> None:
    assert isinstance(talk(settings_for(llm, max_calls=0), "q").outcomes[0], BudgetReached)
    assert llm.asked == []


def test_an_answer_that_was_lost_counts_as_the_worst_case(llm: FakeLlm) -> None:
    llm.script.extend([Answer("x", cut=30), Answer.error(500), Answer(raw=b"prose"), Answer(drop=True)])
    llm.respond = lambda asked: Answer("a", usage={"prompt_tokens": 1, "completion_tokens": 1})
    found = talk(settings_for(llm, prices=DOLLAR_A_TOKEN, budget_usd=1000), question(max_tokens=10))
    assert found.texts == ["a"]
    assert found.usage.usd == 1.0
    assert found.usage.lost_usd == 30.0  # cut, prose and dropped; a 500 is not charged for
    assert found.usage.calls == 5

    llm.script.extend([Answer("x", cut=30)])
    [outcome] = talk(settings_for(llm, prices=DOLLAR_A_TOKEN, budget_usd=15), question(max_tokens=10)).outcomes
    assert isinstance(outcome, BudgetReached)
    assert "$10.0000 of it at most, for answers that were lost" in outcome.message


def test_an_answer_without_token_counts_is_charged_in_full(llm: FakeLlm) -> None:
    llm.respond = lambda asked: Answer("a", usage={})
    found = talk(
        settings_for(llm, prices=DOLLAR_A_TOKEN, budget_usd=25), *(question(f"{i}", max_tokens=10) for i in range(5))
    )
    assert len(llm.asked) == 2
    assert (found.usage.usd, found.usage.unpriced, found.usage.lost_usd) == (0.0, 2, 20.0)


def test_usages_add_up() -> None:
    one = Usage(calls=1, retries=2, cached=3, failed=4, prompt_tokens=5, completion_tokens=6, usd=0.5, unpriced=7)
    assert one + Usage(calls=10, usd=0.25, lost_usd=1) == Usage(11, 2, 3, 4, 5, 6, 0.75, 7, 1)
    assert sum([one, one], Usage()) == one + one


@given(
    budget=st.integers(0, 60),
    calls=st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1), st.booleans(), st.integers(0, 3)), max_size=25),
    seed=st.integers(0, 99),
)
def test_whatever_calls_turn_out_to_cost_the_budget_holds_and_none_waits_for_ever(
    budget: int, calls: list[tuple[int, float, bool, int]], seed: int
) -> None:
    prices = Prices(prompt_usd_per_million=0, completion_usd_per_million=1)
    meter = Meter(EndpointSettings(base_url="http://localhost/v1", model="m", prices=prices, budget_usd=budget))
    spent, refused = 0.0, list[tuple[float, float]]()
    order = random.Random(seed)

    async def one(worst: int, share: float, lost: bool, steps: int) -> None:
        nonlocal spent
        for _ in range(order.randrange(4)):
            await asyncio.sleep(0)
        try:
            await meter.admit(worst, retry=False)
        except BudgetReached:
            refused.append((spent, worst))
            return
        for _ in range(steps):
            await asyncio.sleep(0)
        cost = worst * share
        spent += worst if lost else cost
        meter.settle(worst, None if lost else Reply("x", cost_usd=cost), may_be_billed=lost)

    async def run() -> None:
        await asyncio.wait_for(asyncio.gather(*(one(*call) for call in calls)), 20)

    asyncio.run(run())
    assert spent <= budget + 1e-9
    assert meter.usage.usd + meter.usage.lost_usd == pytest.approx(spent)
    # Nobody is refused for what others had only reserved.
    assert all(before + worst > budget - 1e-9 for before, worst in refused)
