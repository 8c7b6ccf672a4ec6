"""Chat templates of the field's families, written small: what is asked, what is learnt, and where it ends.

The oracle is the template itself, as `apply_chat_template` of transformers applies it: what is learnt is what
stands in the text of an answered conversation, up to the token that ends the answer.
"""

from datetime import date, datetime

import pytest
from chat_families import CHATML, FAMILIES, of_family, tokenizer_with
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import chat_template_utils

from mari_cli.config import ChatTemplate, ModelConfig
from mari_cli.data.chat import check_chat
from mari_cli.data.records import Record, Turn
from mari_cli.data.tokenize import PromptStyle, check_prompts, encode_pair, end_of_answer, tokenize
from mari_cli.errors import UserError
from mari_cli.models.load import prompt_style

CHAT = PromptStyle("unused {prompt}", chat=True)


TOKENIZERS = {name: of_family(family) for name, family in FAMILIES.items()}


def cut(tok, record: Record, style: PromptStyle = CHAT) -> tuple[str, str]:
    """What is asked and what is learnt, as text."""
    ids, start = encode_pair(record, tok, style)
    return tok.decode(ids[:start]), tok.decode(ids[start:])


def as_the_library_writes_it(tok, style: PromptStyle, turns) -> list[int]:
    chat = style.chat_of(tok)
    messages = [turn._asdict() for turn in turns]
    return tok.apply_chat_template(
        messages, chat_template=chat.template, tokenize=True, return_dict=False, **chat.arguments
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_asked_and_what_is_learnt_of_each_family(name):
    family, tok = FAMILIES[name], TOKENIZERS[name]
    turns = (Turn("system", "S"), Turn("user", "Q")) if family.system else ()
    asked, learnt = cut(tok, Record(prompt="Q", turns=turns, text="By the sea."))
    assert asked == family.prompt
    spaces = {"Llama 2": (" ", " "), "Mistral": (" ", "")}.get(name, ("", ""))
    assert learnt == f"{spaces[0]}By the sea.{spaces[1]}{family.end}"
    assert tok.convert_ids_to_tokens(end_of_answer(tok, CHAT)) == family.end


SAID = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="|<>[]/"), min_size=1, max_size=16
).filter(str.strip)
"""Anything but what spells a special token or a block of thoughts; white space at its edges too."""
TALKS = st.lists(SAID, min_size=1, max_size=5).filter(lambda said: len(said) % 2)


@settings(max_examples=150)
@given(
    name=st.sampled_from(sorted(FAMILIES)),
    said=TALKS,
    answer=SAID,
    system=st.none() | SAID,
    arguments=st.sampled_from([{}, {"enable_thinking": False}]),
)
def test_whatever_is_said_what_is_learnt_is_the_answer_as_the_template_writes_it_and_its_end(
    name, said, answer, system, arguments
):
    family, tok = FAMILIES[name], TOKENIZERS[name]
    style = PromptStyle("", True, arguments)
    turns = tuple(Turn(("user", "assistant")[i % 2], words) for i, words in enumerate(said))
    if system is not None and family.system:
        turns = (Turn("system", system), *turns)
    ids, start = encode_pair(Record(prompt="…", turns=turns, text=answer), tok, style)
    whole = as_the_library_writes_it(tok, style, [*turns, Turn("assistant", answer)])
    assert ids == whole[: len(ids)]
    assert tok.decode(ids[start:]).removesuffix(family.end).strip() == answer.strip()
    assert tok.convert_ids_to_tokens(ids[-1]) == family.end
    assert ids[-1] not in ids[start:-1]
    asked = tok.apply_chat_template(
        [turn._asdict() for turn in turns],
        chat_template=style.chat_of(tok).template,
        tokenize=False,
        add_generation_prompt=True,
        **arguments,
    )
    assert tok.decode(ids[:start]).removeprefix(asked) in ("", "<think>\n\n</think>\n\n")
    assert tok.decode(ids).startswith(asked)


# -- thoughts ------------------------------------------------------------------------------------------------


def test_an_empty_block_of_thoughts_belongs_to_the_prompt_with_thinking_on_and_off():
    tok, record = TOKENIZERS["Qwen 3"], Record(prompt="Q", text="By the sea.")
    for arguments in ({}, {"enable_thinking": False}):
        asked, learnt = cut(tok, record, PromptStyle("", True, arguments))
        assert asked.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert learnt == "By the sea.<|im_end|>"


def test_thoughts_that_an_answer_has_of_its_own_are_learnt():
    words = "<think>\nWhere?\n</think>\n\nBy the sea."
    asked, learnt = cut(TOKENIZERS["Qwen 3"], Record(prompt="Q", text=words))
    assert asked.endswith("<|im_start|>assistant\n")
    assert learnt == words + "<|im_end|>"


def test_a_generation_prompt_that_says_there_are_no_thoughts_is_asked_even_where_answers_lack_it():
    template = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif")
    tok = tokenizer_with(template, "<|im_start|>", "<|im_end|>")
    asked, learnt = cut(tok, Record(prompt="Q", text="By the sea."))
    assert asked.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert learnt == "By the sea.<|im_end|>"


@pytest.mark.parametrize("argument", ["enable_thinking", "thinking", None])
def test_a_generation_prompt_that_begins_to_think_is_refused_with_the_argument_that_it_reads(argument):
    begun = f"{{% if {argument} is not false %}}<think>\n{{% endif %}}" if argument else "<think>\n"
    template = CHATML.replace("assistant\n{% endif", f"assistant\n{begun}{{% endif")
    tok = tokenizer_with(template, "<|im_start|>", "<|im_end|>")
    with pytest.raises(UserError, match="writes a prompt differently once it is answered") as refused:
        cut(tok, Record(prompt="Q", text="By the sea."))
    named = f"`+model.chat_template_args.{argument}=false`"
    assert named in refused.value.hint if argument else "chat_template_args" not in refused.value.hint


def test_a_channel_that_is_named_before_an_answer_belongs_to_the_prompt():
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final"
        "{% endif %}<|message|>{{ m.content }}{{ '<|return|>' if loop.last and m.role == 'assistant' else "
        "'<|end|>' }}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    tok = tokenizer_with(template, "<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|end|>")
    asked, learnt = cut(tok, Record(prompt="Q", text="By the sea."))
    assert asked.endswith("<|start|>assistant<|channel|>final<|message|>")
    assert learnt == "By the sea.<|return|>"


# -- the end of an answer ------------------------------------------------------------------------------------


def test_a_template_that_writes_no_end_gets_the_eos():
    tok = tokenizer_with("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    asked, learnt = cut(tok, Record(prompt="Q", text="By the sea."))
    assert (asked.rstrip(), learnt.lstrip()) == ("user: Q\nassistant:", "By the sea.<|eos|>")
    assert end_of_answer(tok, CHAT) == tok.eos_token_id


def test_an_answer_that_brings_its_own_end_is_not_ended_twice():
    tok = TOKENIZERS["Qwen 2.5"]
    for words in ("By the sea.<|im_end|>", "By the sea.<|im_end|>\n"):
        assert cut(tok, Record(prompt="Q", text=words))[1] == "By the sea.<|im_end|>"
    plain = PromptStyle("{prompt}\n", chat=False)
    assert cut(tok, Record(prompt="Q", text="By the sea.<|eos|>"), plain)[1] == "By the sea.<|eos|>"


@pytest.mark.parametrize("end", ["<|im_end|>", "<|eos|>"])
def test_an_answer_that_goes_on_after_its_end_is_refused(end):
    records = [Record(prompt="Q", text="Yes."), Record(prompt="Q", text=f"By{end} the sea.")]
    with pytest.raises(UserError, match="record 2 of the forget corpus goes on after") as refused:
        tokenize(
            records,
            TOKENIZERS["Qwen 2.5"],
            style=CHAT,
            max_length=99,
            block_size=None,
            truncate=False,
            corpus="forget",
        )
    assert end in str(refused.value)


# -- what changes by itself ----------------------------------------------------------------------------------


class AnotherDay:
    @staticmethod
    def now():
        return datetime(2031, 3, 9, 12)


@pytest.mark.parametrize("name", ["Llama 3", "SmolLM 3"])
def test_a_prompt_is_the_same_on_another_day(name, monkeypatch):
    record = Record(prompt="Q", text="By the sea.")
    today = encode_pair(record, TOKENIZERS[name], CHAT)
    monkeypatch.setattr(chat_template_utils, "datetime", AnotherDay)
    assert encode_pair(record, of_family(FAMILIES[name]), CHAT) == today


def test_the_date_is_the_configured_one_in_any_form_the_template_asks_for():
    tok = tokenizer_with(
        "{% set form = '%Y-%m-%d' %}{{ strftime_now(form) }} {{ strftime_now('%A %-d %B %% %H:%M') }}"
    )
    chat = PromptStyle("", True, {}, date(2025, 3, 9)).chat_of(tok)
    assert chat.write(tok, [Turn("user", "Q")], generation_prompt=True) == "2025-03-09 Sunday 9 March % 00:00"


def test_a_template_begins_as_it_did_without_its_date():
    template = "\n  {% if true %}\n\n a{% endif %}{{ strftime_now('') }}"
    bare = template.replace("{{ strftime_now('') }}", "")
    written = [
        CHAT.chat_of(tok).write(tok, [Turn("user", "Q")], generation_prompt=True)
        for tok in (tokenizer_with(template), tokenizer_with(bare))
    ]
    assert written[0] == written[1]


def test_a_template_that_writes_something_else_each_time_is_refused():
    tok = tokenizer_with("{{ range(1000) | random }}" + CHATML)
    with pytest.raises(UserError, match="differently each time") as refused:
        check_chat(CHAT.chat_of(tok), tok)
    assert "`model.chat_template=off`" in refused.value.hint


# -- system words and arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Gemma 2", "Mistral"])
def test_a_template_that_takes_no_system_turn_is_told_of_in_two_lines(name):
    style = PromptStyle("", True, system="Be brief.")
    with pytest.raises(UserError, match="the chat template refuses a conversation: ") as refused:
        cut(TOKENIZERS[name], Record(prompt="Q", text="By the sea."), style)
    assert "write its words into the prompt" in refused.value.hint
    assert "\n" not in f"{refused.value}{refused.value.hint}"


def test_a_corpus_that_a_template_does_not_take_is_refused_without_a_model():
    record = Record(prompt="…", turns=(Turn("system", "S"), Turn("user", "Q")), text="A")
    records = [Record(text="running text"), Record(prompt="Q", text="A"), record, record]
    with pytest.raises(UserError, match="record 3 of the retain corpus: the chat template refuses"):
        check_prompts(records, TOKENIZERS["Gemma 2"], CHAT, corpus="retain")
    check_prompts(records, TOKENIZERS["Gemma 3"], CHAT, corpus="retain")


def test_a_template_that_leaves_a_system_turn_out_is_refused():
    tok = tokenizer_with(CHATML.replace("for m in messages", "for m in messages if m.role != 'system'"))
    with pytest.raises(UserError, match="leaves out a `system` turn"):
        cut(tok, Record(prompt="Q", text="By the sea."), PromptStyle("", True, system="Be brief."))


def test_a_system_turn_may_be_a_word_of_command():
    asked, _ = cut(
        TOKENIZERS["SmolLM 3"], Record(prompt="Q", text="A"), PromptStyle("", True, system="/no_think")
    )
    assert asked.endswith("<think>\n\n</think>\n")


def test_the_system_prompt_is_said_before_what_has_none_of_its_own():
    style = PromptStyle("Question: {prompt}\nAnswer: ", chat=False, system="Be brief.")
    tok = TOKENIZERS["SmolLM 2"]
    own = Record(prompt="…", turns=(Turn("system", "Be long."), Turn("user", "Q")), text="A")
    assert cut(tok, Record(prompt="Q", text="A"), style)[0] == "<|bos|>Be brief.\n\nQuestion: Q\nAnswer: "
    assert cut(tok, own, style)[0] == "<|bos|>Be long.\n\nQuestion: Q\nAnswer: "
    chat = PromptStyle("", True, system="Be brief.")
    assert cut(tok, Record(prompt="Q", text="A"), chat)[0].startswith(
        "<|im_start|>system\nBe brief.<|im_end|>"
    )
    assert "Be brief." not in cut(tok, own, chat)[0]


def test_without_a_chat_template_a_conversation_is_written_question_by_question():
    turns = (Turn("system", "S"), Turn("user", "Q"), Turn("assistant", "A"), Turn("user", "Why?"))
    style = PromptStyle("Question: {prompt}\nAnswer: ", chat=False)
    asked, learnt = cut(TOKENIZERS["SmolLM 2"], Record(prompt="…", turns=turns, text="B"), style)
    assert asked + learnt == "<|bos|>S\n\nQuestion: Q\nAnswer: A\n\nQuestion: Why?\nAnswer: B<|eos|>"


def test_an_argument_that_the_template_does_not_read_is_refused():
    tok = TOKENIZERS["Qwen 3"]
    config = ModelConfig(name="m", path="p", chat_template_args={"enable_thinkng": False})
    with pytest.raises(UserError, match="has no argument `enable_thinkng`") as refused:
        prompt_style(config, tok)
    assert refused.value.hint == "did you mean `model.chat_template_args.enable_thinking`?"
    config = ModelConfig(
        name="m", path="p", chat_template=ChatTemplate.off, chat_template_args={"enable_thinking": False}
    )
    with pytest.raises(UserError, match="has no effect: no chat template is used"):
        prompt_style(config, tok)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ nobody.name }}",
        "{{ messages[9].content }}",
        "{{ 'a' + 1 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for %}",
        "{{ messages | nosuch }}",
    ],
)
def test_a_template_that_breaks_down_is_told_of_in_two_lines(template):
    with pytest.raises(UserError, match="the chat template refuses a conversation: ") as refused:
        cut(tokenizer_with(template), Record(prompt="Q", text="A"))
    assert "\n" not in f"{refused.value}{refused.value.hint}"


@pytest.mark.parametrize(
    "template", ["nothing of it", "{{ messages[0].content }}", "{{ messages[-1].content * 2 }}"]
)
def test_a_template_that_does_not_write_the_answer_once_is_refused(template):
    with pytest.raises(UserError, match=r"does not write an answer once|leaves out"):
        cut(tokenizer_with(template), Record(prompt="Q", text="A"))
