"""A conversation as a tokenizer's chat template writes it: up to the answer, the answer, and what ends it.

The template itself says where an answer begins and ends. It writes a conversation three times: with a
generation prompt, which is what a model is given to answer; with the answer; and with a marker in its place.
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
from mari_cli.errors import UserError, nearest

THINKING = ("enable_thinking", "thinking")
"""Arguments by which templates are told whether a model thinks before it answers."""
MARKER = "MARI9ANSWER4STANDS7HERE"
"""Stands for an answer: no template does with it anything but write it."""
RENDERINGS = 8
"""How often the same is written to see whether it stays the same."""
UNWRITABLE = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # a macro that calls itself without end among them
    TypeError,
    ValueError,
)
"""What a template raises that cannot write a conversation, or is none."""
OFF = "`model.chat_template=off` does without it"
RESERVED = ("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message",
            "tokenize", "tools", "documents", "strftime_now")  # fmt: skip
"""What a template reads that is no setting."""
DIRECTIVES = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ"
"""Of strftime."""


class Written(NamedTuple):
    """A prompt with its answer as one text in three parts."""

    prompt: str
    """With all that the template writes before an answer, an empty block of thoughts for instance."""
    answer: str
    end: str
    """What the template writes after an answer; empty: nothing."""


@dataclass(frozen=True)
class Chat:
    """A chat template with everything that decides what it writes."""

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
    """The chat template of ``tokenizer``, which has one; ``today`` stands wherever it asks for the date."""
    try:
        return Chat(_with_date(str(tokenizer.get_chat_template()), today), arguments)
    except ValueError as error:
        raise UserError(
            "the tokenizer has several chat templates, and none of them is the default", OFF
        ) from error


def check_chat(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse an argument that the template does not read, and a template whose text changes by itself."""
    known = set(re.findall(r"\w+", chat.template))
    for name in chat.arguments:
        if name in RESERVED or name not in known:
            near = nearest(name, known - set(RESERVED))
            raise UserError(
                f"the chat template has no argument `{name}`",
                f"did you mean `model.chat_template_args.{near}`?"
                if near
                else "leave it out of `model.chat_template_args`",
            )
    question = [Turn("user", "Where?")]
    if len({chat.write(tokenizer, question, generation_prompt=True) for _ in range(RENDERINGS)}) > 1:
        raise UserError("the chat template writes the same conversation differently each time", OFF)


@lru_cache
def _with_date(template: str, today: date) -> str:
    """``template`` with ``today`` as the date: with that of the day, every prompt would change at midnight,
    and with it every number and all that is kept."""
    if "strftime_now" not in template:
        return template
    chain = ['replace("%%", "\\0")']
    for letter in DIRECTIVES:
        for directive in (f"%{letter}", f"%-{letter}"):  # with a hyphen: without a leading zero
            chain.append(f'replace("{directive}", {today.strftime(directive)!r})')
    chain.append('replace("\\0", "%")')
    # Jinja drops the line break after a block, so the template begins as it did
    return (
        "{% macro strftime_now(format) %}{{ format | " + " | ".join(chain) + " }}{% endmacro %}\n" + template
    )


def written(chat: Chat, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], answer: str) -> Written:
    """``turns`` and the ``answer`` to them.

    Whatever stands before the answer once it is there belongs to the prompt, although the model is given less
    when it is asked (an empty block of thoughts, the name of a channel): it is no part of what it should say.
    Raises UserError where the template changes a word of the answer, leaves out a turn, or writes a prompt
    differently once it is answered.
    """

    def answered(words: str) -> str:
        return chat.write(tokenizer, [*turns, Turn("assistant", words)], generation_prompt=False)

    asked = chat.write(tokenizer, turns, generation_prompt=True)
    for i, turn in enumerate(turns):
        if turn.role == "assistant" or turn.content.strip() in asked:  # of earlier answers, thoughts may go
            continue
        other = [*turns[:i], Turn(turn.role, MARKER), *turns[i + 1 :]]
        if chat.write(tokenizer, other, generation_prompt=True) == asked:  # it may be a word of command
            raise UserError(
                f"the chat template leaves out a `{turn.role}` turn",
                f"write its words into the prompt; {OFF}",
            )
    opening, marker, end = answered(MARKER).partition(MARKER)
    if not marker or MARKER in end:
        raise UserError("the chat template does not write an answer once", OFF)
    prompt = _prompt(asked, opening, chat)
    whole = answered(answer)
    for beginning, before in ((opening, prompt), (asked, asked)):
        if not (
            whole.startswith(beginning) and whole.endswith(end) and len(whole) >= len(beginning) + len(end)
        ):
            continue
        kept = whole[len(beginning) : len(whole) - len(end)]
        if beginning.startswith(before):  # white space after the prompt is the first that a model says
            kept = beginning[len(before) :] + kept
        if "".join(kept.split()) == "".join(answer.split()):
            return Written(before, kept, end)
    raise UserError("the chat template does not write an answer as it is in the corpus", OFF)


def _prompt(asked: str, opening: str, chat: Chat) -> str:
    """What stands before an answer: what ``chat`` writes when ``asked`` for one, and ``opening`` it."""
    if opening.startswith(asked):
        return opening if opening[len(asked) :].strip() else asked
    if asked.startswith(opening) and _nothing_thought(asked[len(opening) :]):
        return asked
    thinking = next((name for name in THINKING if re.search(rf"\b{name}\b", chat.template)), None)
    helps = f"an argument of the template may help, as `+model.chat_template_args.{thinking}=false`; "
    raise UserError(
        "the chat template writes a prompt differently once it is answered",
        (helps if thinking else "") + OFF,
    )


def _nothing_thought(text: str) -> bool:
    """Whether ``text`` is a block that was opened and closed, or white space."""
    inside = text.strip()
    name, _, rest = inside.removeprefix("<").partition(">")
    return not inside or (inside.startswith("<") and rest.strip() == f"</{name}>")
