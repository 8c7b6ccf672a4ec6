"""Chat templates as the field's families of models have them, written small."""

from dataclasses import dataclass

from mari_cli.models.tokenizer import train_tokenizer

WORDS = "Where was Anna Berg born? By the sea, in Süßkirchen. She repairs clocks; be brief."


@dataclass(frozen=True)
class Family:
    template: str
    tokens: tuple[str, ...]
    """Special tokens of the vocabulary."""
    end: str
    """The token that ends an answer."""
    prompt: str
    """Before the answer to `Q`, after the system words `S` where it takes any."""
    system: bool = True


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}SYSTEM{% for m in messages %}{% if m.role != 'system' %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ prefix if loop.first or (loop.index0 == 1 and prefix) }}{{ m.content | trim }}<end_of_turn>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
FAMILIES = {
    "Llama 2": Family(
        "{% set ns = namespace(s='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.s = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}"
        "{% elif m.role == 'user' %}{{ bos_token + '[INST] ' + ns.s + m.content | trim + ' [/INST]' }}"
        "{% set ns.s = '' %}{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
        (),
        "<|eos|>",
        "<|bos|>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST]",
    ),
    "Llama 3": Family(
        "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}<|head|>system<|tail|>\n\nToday: {{ date_string }}\n\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<|eot_id|>"
        "{% for m in messages if m.role != 'system' %}<|head|>{{ m.role }}<|tail|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|head|>assistant<|tail|>\n\n{% endif %}",
        ("<|head|>", "<|tail|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|bos|><|head|>system<|tail|>\n\nToday: 26 Jul 2024\n\nS<|eot_id|>"
        "<|head|>user<|tail|>\n\nQ<|eot_id|><|head|>assistant<|tail|>\n\n",
    ),
    "Qwen 2.5": Family(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}" + CHATML,
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Qwen 3": Family(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% set said = m.content.split('</think>') %}"
        "{% if loop.last %}<think>\n"
        "{{ said[0].split('<think>')[-1].strip('\n') if said | length > 1 }}\n</think>\n\n{% endif %}"
        "{{ said[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
        "{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n",
    ),
    "Gemma 2": Family(
        GEMMA.replace(
            "SYSTEM",
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
        ),
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<|bos|><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n",
        system=False,
    ),
    "Gemma 3": Family(
        GEMMA.replace(
            "SYSTEM",
            "{% set prefix = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}",
        ),
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<|bos|><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\n",
    ),
    "Phi 3": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        "<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\n",
    ),
    "Mistral": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}",
        (),
        "<|eos|>",
        "<|bos|>[INST] Q [/INST]",
        system=False,
    ),
    "SmolLM 2": Family(
        CHATML,
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
    ),
    "SmolLM 3": Family(
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% set thinks = enable_thinking is not defined or enable_thinking %}"
        "{% if '/no_think' in system %}{% set thinks = false %}{% endif %}"
        "<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}\n"
        "{{ system.replace('/no_think', '') }}<|im_end|>\n"
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not thinks %}<think>\n\n</think>\n{% endif %}"
        "{{ m.content.lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if not thinks %}<think>\n\n</think>\n{% endif %}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_start|>system\nToday Date: 26 July 2024\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
}


def of_family(family: Family):
    return tokenizer_with(family.template, *family.tokens)


def tokenizer_with(template: str, *tokens: str):
    made = train_tokenizer([WORDS] * 4, 320)
    made.add_special_tokens({"additional_special_tokens": list(tokens)})
    made.chat_template = template
    return made
