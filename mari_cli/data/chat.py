"""Conversations written by a tokenizer's chat template, in three parts: prompt, answer, and end of turn.

To find the parts, the template writes a conversation three times: with a generation prompt, which is the text
that a model answers; with the answer; and with a marker in place of the answer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mari_cli.data.records import Turn
from mari_cli.errors import UserError, did_you_mean

THINKING = ("enable_thinking", "thinking")
"""Arguments that tell a template whether the model thinks before an answer."""
MARKER = "MARI9ANSWER4STANDS7HERE"
"""A text in place of an answer. No template treats this text specially."""
RENDERINGS = 8
"""The number of times a conversation is written to see whether the text stays the same."""
UNWRITABLE = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # for example, a macro that calls itself without end
    TypeError,
    ValueError,
)
"""The exceptions of a template that cannot write a conversation, or that is no template."""
OFF = "`model.chat_template=off` does without it"
RESERVED = ("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message",
            "tokenize", "tools", "documents", "strftime_now")  # fmt: skip
"""Names that a template reads, but that the user cannot set as arguments."""
DIRECTIVES = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ"
"""The letters of strftime's directives."""


class Written(NamedTuple):
    """A prompt with its answer as one text in three parts."""

    prompt: str
    """The text before the answer, with text that the template adds there (an empty block of thoughts)."""
    answer: str
    end: str
    """The text that the template writes after an answer, which may be empty."""


@dataclass(frozen=True)
class Chat:
    """A chat template with its arguments, which together determine the text."""

    template: str
    arguments: Mapping[str, Any]

    def write(
        self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, generation_prompt: bool
    ) -> str:
        """``turns`` as one text. Raises UserError where the template refuses them."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return str(
                tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                    **self.arguments,
                )
            )
        except UNWRITABLE as error:
            told = " ".join(str(error).split()) or type(error).__name__
            systems = any(turn.role == "system" for turn in turns)
            raise UserError(
                f"the chat template refuses a conversation: {told}",
                f"where it takes no system turn, write its words into the prompt; {OFF}" if systems else OFF,
            ) from error


def chat_of(tokenizer: PreTrainedTokenizerBase, *, arguments: Mapping[str, Any], today: date) -> Chat:
    """The chat template of ``tokenizer``, which must have one, with ``today`` as the date in the template.

    Raises UserError where there are several templates and no default."""
    try:
        return Chat(_with_date(str(tokenizer.get_chat_template()), today), arguments)
    except ValueError as error:
        raise UserError(
            "the tokenizer has several chat templates, and none of them is the default", OFF
        ) from error


def check_chat(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError for an argument that the template does not read, and for a template that writes the
    same conversation differently each time."""
    known = set(re.findall(r"\w+", chat.template))
    for name in chat.arguments:
        if name in RESERVED or name not in known:
            section = "model.chat_template_args"
            otherwise = f"leave it out of `{section}`"
            raise UserError(
                f"the chat template has no argument `{name}`",
                did_you_mean(name, known - set(RESERVED), otherwise, key=f"{section}."),
            )
    question = [Turn("user", "Where?")]
    if len({chat.write(tokenizer, question, generation_prompt=True) for _ in range(RENDERINGS)}) > 1:
        raise UserError("the chat template writes the same conversation differently each time", OFF)


@lru_cache
def _with_date(template: str, today: date) -> str:
    """``template`` with ``today`` as the date. With the real date every prompt would change at midnight, and
    with the prompts every number and every cache key."""
    if "strftime_now" not in template:
        return template
    chain = ['replace("%%", "\\0")']
    for letter in DIRECTIVES:
        for directive in (f"%{letter}", f"%-{letter}"):  # the hyphen removes a leading zero
            chain.append(f'replace("{directive}", {today.strftime(directive)!r})')
    chain.append('replace("\\0", "%")')
    # Jinja drops the line break after a block, so the template's text begins as before
    return (
        "{% macro strftime_now(format) %}{{ format | " + " | ".join(chain) + " }}{% endmacro %}\n" + template
    )


def written(chat: Chat, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], answer: str) -> Written:
    """Write ``turns`` and the ``answer`` to them.

    The prompt includes text that the template adds before an answer (an empty block of thoughts, a channel's
    name), although a generation prompt may lack this text, because the model should not learn this text.
    Raises UserError where the template changes a word of the answer, leaves out a turn, or writes the prompt
    differently when an answer follows.
    """

    def answered(words: str) -> str:
        return chat.write(tokenizer, [*turns, Turn("assistant", words)], generation_prompt=False)

    asked = chat.write(tokenizer, turns, generation_prompt=True)
    for i, turn in enumerate(turns):
        if turn.role == "assistant" or turn.content.strip() in asked:  # a template may cut earlier thoughts
            continue
        other = [*turns[:i], Turn(turn.role, MARKER), *turns[i + 1 :]]
        if chat.write(tokenizer, other, generation_prompt=True) == asked:  # a turn may change other text
            raise UserError(
                f"the chat template leaves out a `{turn.role}` turn",
                f"write its words into the prompt; {OFF}",
            )
    opening, marker, end = answered(MARKER).partition(MARKER)
    if not marker or MARKER in end:
        raise UserError("the chat template does not write an answer once", OFF)
    prompt = _text_before(asked, opening, chat)
    whole = answered(answer)
    for beginning, before in ((opening, prompt), (asked, asked)):
        if not (
            whole.startswith(beginning) and whole.endswith(end) and len(whole) >= len(beginning) + len(end)
        ):
            continue
        kept = whole[len(beginning) : len(whole) - len(end)]
        if beginning.startswith(before):  # white space after the prompt belongs to the answer
            kept = beginning[len(before) :] + kept
        if "".join(kept.split()) == "".join(answer.split()):
            return Written(before, kept, end)
    raise UserError("the chat template does not write an answer as it is in the corpus", OFF)


def _text_before(asked: str, opening: str, chat: Chat) -> str:
    """The text before an answer, from ``asked``, the text with a generation prompt, and ``opening``, the text
    before the marker. Raises UserError where the two contradict each other."""
    if opening.startswith(asked):
        return opening if opening[len(asked) :].strip() else asked
    if asked.startswith(opening) and _is_empty_block(asked[len(opening) :]):
        return asked
    thinking = next((name for name in THINKING if re.search(rf"\b{name}\b", chat.template)), None)
    helps = f"an argument of the template may help, as `+model.chat_template_args.{thinking}=false`; "
    raise UserError(
        "the chat template writes a prompt differently once it is answered", (helps if thinking else "") + OFF
    )


def _is_empty_block(text: str) -> bool:
    """Whether ``text`` is white space or an empty block (`<think></think>`)."""
    inside = text.strip()
    name, _, rest = inside.removeprefix("<").partition(">")
    return not inside or (inside.startswith("<") and rest.strip() == f"</{name}>")
