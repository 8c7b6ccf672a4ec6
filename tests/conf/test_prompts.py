"""Words of a configuration that a model is told, or should say, are refused where they cannot be meant."""

import pytest

from mari_cli.config import ModelConfig
from mari_cli.losses.preference import DPOConfig


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"prompt_template": "no place"}, r"model\.prompt_template must contain {prompt}"),
        ({"prompt_template": "Q: {prompt}\\nA: "}, r"model\.prompt_template has a backslash and a letter"),
        ({"prompt_template": "Q:\\t{prompt}"}, r"model\.prompt_template has a backslash and a letter"),
        ({"system_prompt": "Be brief.\\n"}, r"model\.system_prompt has a backslash and a letter"),
        ({"system_prompt": " "}, r"model\.system_prompt must not be empty"),
        ({"chat_template_date": "tomorrow"}, r"model\.chat_template_date must be a date like 2024-07-26"),
        ({"chat_template_date": "2024-13-01"}, r"model\.chat_template_date must be a date like 2024-07-26"),
    ],
)
def test_what_a_model_cannot_have_been_meant_to_be_told_is_refused(words, told):
    with pytest.raises(ValueError, match=told):
        ModelConfig(name="m", path="p", **words)


def test_words_with_line_breaks_are_taken():
    model = ModelConfig(name="m", prompt_template="Q: {prompt}\nA: ", system_prompt="C:\\data\nBe brief.")
    assert model.chat_template_date == "2024-07-26"


@pytest.mark.parametrize("answers", [[], [""], ["I don't know.", " \n"]])
def test_an_empty_answer_is_none_that_a_model_could_rather_give(answers):
    with pytest.raises(ValueError, match=r"loss\.answers must not"):
        DPOConfig(name="dpo", answers=answers)
