"""Passages as token ids: what the tokenizer puts before them, where the output begins, and what did not fit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tunes import pico
from raylens.api.reading import Passage
from raylens.engine.load import LoadedModel
from raylens.engine.passage import PassageTokens, passage_tokens, span_tokens
from raylens.errors import InputError
from raylens.traces.span import Turn, plain

# A strict template, as Mistral's and Gemma's are: turns alternate, and no system.
STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role not in ['user', 'assistant'] or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
FREE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def chatty(loaded: LoadedModel, template: str | None) -> LoadedModel:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = template
    return replace(loaded, tokenizer=tokenizer)


def turns(*said: tuple[str, str]) -> tuple[Turn, ...]:
    return tuple(Turn(role=role, content=content) for role, content in said)


def text_of(loaded: LoadedModel, ids: tuple[int, ...]) -> str:
    return str(loaded.tokenizer.decode(list(ids)))


def halves(loaded: LoadedModel, tokens: PassageTokens) -> tuple[str, str]:
    assert tokens.output_start is not None
    head = [token for at, token in enumerate(tokens.ids[: tokens.output_start]) if at not in tokens.special]
    return text_of(loaded, tuple(head)), text_of(loaded, tokens.ids[tokens.output_start :])


def test_a_text_is_read_as_the_tokenizer_reads_it(loaded: LoadedModel, text: str) -> None:
    tokens = passage_tokens(loaded, Passage(text=text[:60]))
    assert list(tokens.ids) == loaded.tokenizer(text[:60])["input_ids"]
    assert tokens.special == tuple(range(len(loaded.prefix_ids)))  # GPT-2's tokenizer puts nothing before a text
    assert (tokens.n_dropped, tokens.output_start) == (0, None)
    assert tokens.textual == list(range(len(loaded.prefix_ids), len(tokens.ids)))


def test_token_ids_are_read_as_they_are(llama: LoadedModel) -> None:
    tokens = passage_tokens(llama, Passage(token_ids=(5, 0, 7)))
    assert tokens == PassageTokens((5, 0, 7), special=(1,))
    with pytest.raises(InputError, match=r"300 is no token id of .* hint: it has 300 tokens"):
        passage_tokens(llama, Passage(token_ids=(5, 300)))


@pytest.mark.parametrize("most", [None, 4, 127, 128, 500])
def test_what_does_not_fit_is_cut_at_the_end_and_counted(most: int | None, llama: LoadedModel) -> None:
    ids = tuple(2 + at % 250 for at in range(200))
    tokens = passage_tokens(llama, Passage(token_ids=ids), most)
    kept = min(most or 128, 128)
    assert tokens.ids == ids[:kept]
    assert tokens.n_dropped == 200 - kept
    span = span_tokens(llama, "a" * 300, "b", most)
    assert span.output_start == len(span.ids) == kept  # nothing of the output is left
    assert span.n_dropped == 1 + 300 + 1 - kept  # BOS, the input, the output


@given(given=st.text(max_size=40), said=st.text(max_size=40))
def test_a_completion_follows_its_prompt_directly(given: str, said: str) -> None:
    model = pico()
    tokens = span_tokens(model, given, said)
    assert tokens.ids[: len(model.prefix_ids)] == model.prefix_ids
    assert tokens.output_start is not None
    own = tokens.ids[len(model.prefix_ids) :]
    assert text_of(model, own) == given + said
    # The prompt's tokens are those that the model was given before it wrote.
    head = model.tokenizer(given, add_special_tokens=False)["input_ids"] if given else []
    assert list(own[: tokens.output_start - len(model.prefix_ids)]) == head


def test_a_token_across_the_two_belongs_to_the_output() -> None:
    model = pico()
    whole = model.tokenizer("return", add_special_tokens=False)["input_ids"]
    assert len(whole) == 1
    tokens = span_tokens(model, "ret", "urn")
    assert halves(model, tokens) == ("ret", "urn")
    assert passage_tokens(model, Passage(input="ret", output="urn")) == tokens


@pytest.mark.parametrize(
    ("given", "said", "prompt", "output"),
    [
        (turns(("user", "hi")), "yes", "[user]hi[end][assistant]", "yes"),
        (turns(("user", "hi")), turns(("assistant", "yes")), "[user]hi[end][assistant]", "yes"),
        ("hi", turns(("assistant", "yes")), "[user]hi[end][assistant]", "yes"),
        # Roles that no template knows, and neighbours of one role.
        (
            turns(("developer", "be brief"), ("human", "hi")),
            "yes",
            "[system]be brief[end][user]hi[end][assistant]",
            "yes",
        ),
        (
            turns(("user", "hi"), ("model", "run"), ("tool", "42"), ("observation", "!")),
            "yes",
            "[user]hi[end][assistant]run[end][user]42[end][user]![end][assistant]",
            "yes",
        ),
        (
            turns(("user", "hi")),
            turns(("assistant", "run"), ("tool", "42"), ("assistant", "yes")),
            "[user]hi[end][assistant]",
            "run[end][user]42[end][assistant]yes[end]",
        ),
        (turns(("user", "hi")), (), "[user]hi[end][assistant]", ""),
        ((), turns(("assistant", "yes")), "", "assistant: yes"),  # templates render no chat of nothing
    ],
)
def test_turns_are_rendered_by_the_chat_template(
    given: str | tuple[Turn, ...], said: str | tuple[Turn, ...], prompt: str, output: str
) -> None:
    model = chatty(pico(), FREE)
    tokens = span_tokens(model, given, said)
    assert tokens.ids.count(model.prefix_ids[0]) == 1  # the template's own, and no second one
    assert tokens.special == (0,)
    assert halves(model, tokens) == (prompt, output)


def test_a_template_that_wants_turns_to_alternate_gets_them_joined() -> None:
    model = chatty(pico(), STRICT)
    tokens = span_tokens(model, turns(("system", "be brief"), ("user", "hi")), "yes")
    assert halves(model, tokens) == ("[user]be brief\n\nhi[end][assistant]", "yes")


@pytest.mark.parametrize(
    "template",
    [None, "{{ raise_exception('no') }}", "{{ messages[99].content }}", "{{ messages + 1 }}"],
    ids=["none", "refuses", "fails", "type"],
)
def test_without_a_template_that_takes_them_turns_are_lines(template: str | None) -> None:
    model = chatty(pico(), template)
    given, said = turns(("tool", "42"), ("user", "hi")), turns(("assistant", "yes"))
    tokens = span_tokens(model, given, said)
    assert halves(model, tokens) == (plain(given) + "\n", "assistant: yes")
    assert tokens.ids[0] == model.prefix_ids[0]
    assert halves(model, span_tokens(model, given, "yes")) == (plain(given) + "\n", "yes")
    assert halves(model, span_tokens(model, (), said)) == ("", "assistant: yes")


def test_an_empty_span_has_no_tokens_of_its_own(loaded: LoadedModel) -> None:
    tokens = span_tokens(loaded, "", "")
    assert tokens.ids == loaded.prefix_ids
    assert tokens.output_start == len(tokens.ids)
    assert tokens.textual == []
