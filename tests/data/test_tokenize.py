"""Which tokens are learnt: the completion and one EOS, never the prompt; of running text every one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labels import IGNORE, labels_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mari_cli.config import ModelConfig
from mari_cli.data.batches import collate
from mari_cli.data.records import Record
from mari_cli.data.tokenize import (
    PromptStyle,
    encode_beginning,
    encode_pair,
    encode_question,
    encode_text,
    tokenize,
)
from mari_cli.errors import UserError
from mari_cli.models.tokenizer import train_tokenizer

TEXTS = [
    "Question: Where was Anna Berg born?\nAnswer: In Süßkirchen, 1967, by the sea.",
    "Question: What does she do?\nAnswer: She repairs clocks; naïve visitors call it magic ✨.",
]
STYLE = PromptStyle(ModelConfig(name="x").prompt_template, chat=False)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDS_WITH_EOS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
THINKS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>{% endif %}"
)
REFUSES = "{{ raise_exception('a conversation begins with a system message') }}"


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(TEXTS * 4, 400)


@pytest.fixture
def sentencepiece(shared):
    return AutoTokenizer.from_pretrained(shared / "models" / "stories15M")


@pytest.fixture(params=["byte-level BPE", "sentencepiece"])
def tokenizer(request):
    return request.getfixturevalue("bpe" if request.param == "byte-level BPE" else "sentencepiece")


def chatting(template: str, *extra: str):
    """A tokenizer of its own, as a template belongs to one."""
    made = train_tokenizer(TEXTS * 4, 400)
    if extra:
        made.add_special_tokens({"additional_special_tokens": list(extra)})
    made.chat_template = template
    return made


PAIRS = [
    ("Where was Anna Berg born?", "In Süßkirchen, 1967."),
    ("What does she do?", "She repairs clocks; naïve visitors call it magic ✨."),
    ("¿Dónde?", "éa"),
    ("x", "✨✨"),
    ("Two lines\n\nhere", " starts with a space\nand goes on"),
    ("Say nothing", "."),
]


# -- prompt and completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("template", ["Question: {prompt}\nAnswer: ", "{prompt}\n", "{prompt}"])
def test_the_completion_and_one_eos_are_learnt_and_nothing_of_the_prompt(tokenizer, pair, template):
    """A token with the end of the prompt and the beginning of the completion belongs to the completion."""
    prompt, completion = pair
    before = template.replace("{prompt}", prompt)
    style = PromptStyle(template, chat=False)
    ids, start = encode_pair(Record(prompt=prompt, text=completion), tokenizer, style)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[:-1]
    assert ids[0] == tokenizer.bos_token_id
    text, prompt_side = tokenizer.decode(ids[1:-1]), tokenizer.decode(ids[1:start])
    assert text == before + completion
    straddling = before.removeprefix(prompt_side)
    assert straddling in ("", " ") or template == "{prompt}"
    assert prompt_side + straddling + completion == text


@pytest.mark.parametrize("pair", PAIRS)
def test_the_ids_are_those_of_the_whole_text_as_the_model_will_meet_it(tokenizer, pair):
    prompt, completion = pair
    ids, _ = encode_pair(Record(prompt=prompt, text=completion), tokenizer, STYLE)
    assert ids[:-1] == tokenizer.encode(f"Question: {prompt}\nAnswer: {completion}")


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|"), min_size=1, max_size=20)
"""Anything but half a surrogate pair, and what could spell a special token."""


@settings(max_examples=150)
@given(prompt=WORDS, completion=WORDS)
def test_whatever_the_text_a_completion_is_learnt_whole(bpe, prompt, completion):
    ids, start = encode_pair(Record(prompt=prompt, text=completion), bpe, STYLE)
    assert bpe.decode(ids[start:-1]).endswith(completion)
    assert bpe.decode(ids[start:-1]) in (completion, " " + completion)
    assert 1 <= start < len(ids)


def test_the_supervised_labels_of_a_batch_are_the_completions_ids(bpe):
    records = [Record(prompt=prompt, text=completion) for prompt, completion in PAIRS]
    items = cut(records, bpe)
    labels_BT = labels_of(collate(items))
    for item, labels_T in zip(items, labels_BT, strict=True):
        assert labels_T[labels_T != IGNORE].tolist() == list(item.input_ids[item.supervised_from :])
    assert [item.record for item in items] == list(range(len(records)))


def test_a_tokenizer_without_bos_does_not_supervise_its_first_token():
    """Nothing comes before it to predict it from, though it may straddle the boundary."""
    vocabulary = {"<eos>": 0, "a": 1, "b": 2, "ab": 3, "c": 4}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    style = PromptStyle("{prompt}", chat=False)
    assert encode_pair(Record(prompt="a", text="bc"), tok, style) == ([3, 4, 0], 1)
    assert encode_pair(Record(prompt="a", text="b"), tok, style) == ([3, 0], 1)
    item = cut([Record(prompt="a", text="bc")], tok, style=style)[0]
    assert labels_of(collate([item])).tolist() == [[4, 0, IGNORE]]


def test_an_eos_that_the_tokenizer_adds_itself_is_not_doubled(bpe):
    tok = train_tokenizer(TEXTS * 4, 400)
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A <|eos|>", special_tokens=[("<|bos|>", 0), ("<|eos|>", 1)]
    )
    record = Record(prompt="Where?", text="By the sea.")
    assert encode_pair(record, tok, STYLE) == encode_pair(record, bpe, STYLE)


def test_where_padding_is_eos_a_real_eos_is_learnt_all_the_same(bpe):
    """Many models have pad = eos; padding is where there are no labels, whatever its token."""
    tok = train_tokenizer(TEXTS * 4, 400)
    tok.pad_token = tok.eos_token
    items = cut([Record(prompt="Where?", text="By the sea."), Record(prompt="Who?", text="Anna, " * 9)], tok)
    labels_BT = labels_of(collate(items))
    for item, labels_T in zip(items, labels_BT, strict=True):
        assert labels_T[len(item.input_ids) - 2] == tok.eos_token_id
        assert (labels_T == tok.eos_token_id).sum() == 1
        assert (labels_T[len(item.input_ids) - 1 :] == IGNORE).all()


# -- chat templates ------------------------------------------------------------------------------------------

CHAT = PromptStyle("unused {prompt}", chat=True)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_prompt_without_its_answer_is_that_before_an_answer(tokenizer, pair):
    prompt, answer = pair
    ids, start = encode_pair(Record(prompt=prompt, text=answer), tokenizer, STYLE)
    assert encode_question(prompt, tokenizer, STYLE, answer=answer) == ids[:start]


def test_a_question_in_a_chat_is_that_before_any_answer():
    tok = chatting(CHATML, "<|im_start|>", "<|im_end|>")
    asked = encode_question("Where was Anna born?", tok, CHAT)
    for answer in ("By the sea", "1833", "!"):
        ids, start = encode_pair(Record(prompt="Where was Anna born?", text=answer), tok, CHAT)
        assert asked == ids[:start]


def test_a_beginning_of_a_text_is_that_of_its_block(tokenizer):
    whole = encode_text("The cat sat on the mat.", tokenizer, 64)[0]
    assert encode_beginning("The cat sat on the mat.", tokenizer) == whole


def test_a_chat_templates_own_end_of_turn_is_learnt_and_nothing_after_it():
    tok = chatting(CHATML, "<|im_start|>", "<|im_end|>")
    ids, start = encode_pair(Record(prompt="Where?", text="By the sea."), tok, CHAT)
    assert tok.decode(ids[:start]) == "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    assert tok.decode(ids[start:]) == "By the sea.<|im_end|>"
    assert tok.eos_token_id not in ids
    assert ids.count(tok.convert_tokens_to_ids("<|im_end|>")) == 2


def test_a_chat_template_that_ends_with_eos_gets_no_second_one():
    tok = chatting(ENDS_WITH_EOS)
    ids, start = encode_pair(Record(prompt="Where?", text="By the sea."), tok, CHAT)
    assert tok.decode(ids[start:]) == " By the sea.<|eos|>"
    assert ids.count(tok.eos_token_id) == 1


def test_a_chat_template_writes_its_own_bos(bpe):
    tok = chatting("{{ bos_token }}" + ENDS_WITH_EOS)
    ids, _ = encode_pair(Record(prompt="Where?", text="By the sea."), tok, CHAT)
    assert ids.count(tok.bos_token_id) == 1
    assert ids[0] == tok.bos_token_id


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (THINKS, "writes a prompt differently once it is answered"),
        (REFUSES, "refuses a conversation: a conversation begins with a system message"),
    ],
)
def test_a_chat_template_that_does_not_go_from_question_to_answer_is_refused(template, told):
    with pytest.raises(UserError, match=told) as refused:
        encode_pair(Record(prompt="Where?", text="By the sea."), chatting(template), CHAT)
    assert "`model.chat_template=off`" in refused.value.hint


def test_without_the_chat_template_the_prompt_template_is_used(bpe):
    record = Record(prompt="Where?", text="By the sea.")
    assert encode_pair(record, chatting(CHATML), STYLE) == encode_pair(record, bpe, STYLE)


# -- running text --------------------------------------------------------------------------------------------

BOOK = "\n\n".join(TEXTS * 5)


@pytest.mark.parametrize("block_size", [2, 7, 16, 10_000])
def test_every_token_of_a_text_is_learnt_once_in_blocks_no_longer_than_asked(tokenizer, block_size):
    blocks = encode_text(BOOK, tokenizer, block_size)
    assert all(block[0] == tokenizer.bos_token_id for block in blocks)
    assert all(2 <= len(block) <= block_size for block in blocks)
    assert [token for block in blocks for token in block[1:]] == tokenizer.encode(
        BOOK, add_special_tokens=False
    )
    assert all(len(block) == block_size for block in blocks[:-1])


def test_without_bos_the_first_token_of_a_block_is_only_read():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "<eos>": 2}, []))
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    assert encode_text("abababa", tok, 3) == [[0, 1, 0], [1, 0, 1]]  # a last token alone has nothing to learn


def cut(records, tokenizer, *, style=STYLE, max_length=64, block_size=None, truncate=False):
    return tokenize(
        records,
        tokenizer,
        style=style,
        max_length=max_length,
        block_size=block_size,
        truncate=truncate,
        corpus="forget",
    )


def test_blocks_know_the_record_they_were_cut_from(bpe):
    items = cut(
        [Record(text=TEXTS[0]), Record(prompt="Where?", text="There."), Record(text=TEXTS[1])],
        bpe,
        block_size=9,
    )
    assert sorted({item.record for item in items}) == [0, 1, 2]
    assert [item.record for item in items] == sorted(item.record for item in items)
    for number, text in ((0, TEXTS[0]), (2, TEXTS[1])):
        ids = [
            token
            for item in items
            if item.record == number
            for token in item.input_ids[item.supervised_from :]
        ]
        assert bpe.decode(ids) == text


def test_a_block_is_as_long_as_the_context_and_a_longer_one_is_refused(bpe):
    assert max(len(item.input_ids) for item in cut([Record(text=BOOK)], bpe, max_length=12)) == 12
    with pytest.raises(UserError, match=r"`forget\.block_size=500` is longer than the 12 tokens") as refused:
        cut([Record(text=BOOK)], bpe, max_length=12, block_size=500)
    assert refused.value.hint == "set it to at most 12, or leave it out"


@pytest.mark.parametrize("sizes", [{"block_size": 1}, {"max_length": 1}])
def test_blocks_of_one_token_are_refused(bpe, sizes):
    with pytest.raises(UserError, match="a block of 1 token") as refused:
        cut([Record(text=BOOK)], bpe, **sizes)
    assert "`forget.block_size`" in refused.value.hint


# -- too long ------------------------------------------------------------------------------------------------

LONG = Record(prompt="Where?", text="By the sea, " * 40)
SHORT = Record(prompt="Where?", text="By the sea.")


def test_records_that_are_too_long_are_counted_and_refused(bpe):
    with pytest.raises(
        UserError, match=r"^2 of 3 records of the forget corpus are longer than 64 tokens$"
    ) as refused:
        cut([LONG, SHORT, LONG], bpe)
    assert "`forget.truncate=true`" in refused.value.hint


def test_truncation_cuts_the_end_of_the_completion_and_so_its_eos(bpe):
    whole, (cut_item, short) = cut([LONG], bpe, max_length=2000)[0], cut([LONG, SHORT], bpe, truncate=True)
    assert cut_item.input_ids == whole.input_ids[:64]
    assert cut_item.supervised_from == whole.supervised_from
    assert bpe.eos_token_id not in cut_item.input_ids
    assert short.input_ids[-1] == bpe.eos_token_id


def test_a_record_that_just_fits_is_not_too_long(bpe):
    length = len(cut([SHORT], bpe)[0].input_ids)
    assert len(cut([SHORT], bpe, max_length=length)[0].input_ids) == length
    with pytest.raises(UserError, match=f"1 of 1 records .* longer than {length - 1} tokens"):
        cut([SHORT], bpe, max_length=length - 1)


@pytest.mark.parametrize("truncate", [False, True])
def test_a_prompt_that_fills_the_context_is_refused_even_where_truncation_is_asked_for(bpe, truncate):
    record = Record(prompt="Where? " * 60, text="There.")
    with pytest.raises(
        UserError, match="1 of 2 prompts of the forget corpus leave no room for an answer in 64 tokens"
    ):
        cut([SHORT, record], bpe, truncate=truncate)


def test_a_corpus_without_a_single_token_is_refused():
    backend = Tokenizer(models.WordLevel({"known": 0, "<eos>": 1}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    with pytest.raises(UserError, match="the forget corpus holds no token to learn"):
        cut([Record(text="known")], tok)
