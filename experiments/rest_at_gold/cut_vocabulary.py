"""A model that knows only the tokens of some texts, and says of them what it said before: its head is what a
small model's step costs most, and most of a large vocabulary stands in no text.

python experiments/rest_at_gold/cut_vocabulary.py MODEL OUT FILE…     # .json lines (question, answer) or .txt

The tokenizer cuts these texts as before; that is checked. Of other texts it makes more and shorter tokens.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def texts_of(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".txt":
        return text.split("\n\n")
    return [json.loads(line)[name] for line in text.splitlines() for name in ("question", "answer")]


def closure(tokens: set[str], merges: list[tuple[str, str]]) -> set[str]:
    """``tokens`` and all that they are merged from."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for pair in merges:
        parts.setdefault("".join(pair), []).append(pair)
    found, open_ = set(tokens), list(tokens)
    while open_:
        for pair in parts.get(open_.pop(), []):
            open_ += [part for part in pair if part not in found]
            found.update(pair)
    return found


def main(model: str, out: Path, files: list[Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    texts = [text for file in files for text in texts_of(file)]
    shapes = [
        f"Question: {text}\nAnswer: {text}" for text in texts
    ] + texts  # as a word after white space too
    before = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(shapes)["input_ids"]]

    tokenizer.save_pretrained(out)
    file = out / "tokenizer.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = saved["model"]["vocab"]
    merges = [
        tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in saved["model"]["merges"]
    ]
    special = {token["content"] for token in saved["added_tokens"]}
    kept = closure({token for tokens in before for token in tokens}, merges)
    kept |= {
        token
        for token in vocabulary
        if token in special or token.startswith("<0x") or (len(token) == 1 and ord(token) < 256)
    }
    old = sorted(vocabulary[token] for token in kept)
    new = {number: i for i, number in enumerate(old)}
    saved["model"]["vocab"] = {
        token: new[vocabulary[token]] for token in sorted(kept, key=vocabulary.__getitem__)
    }
    saved["model"]["merges"] = [list(pair) for pair in merges if {*pair, "".join(pair)} <= kept]
    for token in saved["added_tokens"]:
        token["id"] = new[token["id"]]
    for special_token in (saved.get("post_processor") or {}).get("special_tokens", {}).values():
        special_token["ids"] = [new[number] for number in special_token["ids"]]
    file.write_text(json.dumps(saved, ensure_ascii=False), encoding="utf-8")
    for stale in ("tokenizer.model", "added_tokens.json"):
        (out / stale).unlink(missing_ok=True)

    rows = torch.tensor(old)
    embeddings, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    tied = embeddings.weight is head.weight
    for layer in (embeddings, head):
        if layer.weight.shape[0] != len(old):
            layer.weight = torch.nn.Parameter(layer.weight.detach()[rows].clone())
    if tied:
        head.weight = embeddings.weight
    lm.config.vocab_size = len(old)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for config in (lm.config, lm.generation_config):
            number = getattr(config, name, None)
            if number is not None:
                setattr(config, name, new.get(number))
    lm.save_pretrained(out)

    again = AutoTokenizer.from_pretrained(out)
    assert [again.convert_ids_to_tokens(ids) for ids in again(shapes)["input_ids"]] == before
    print(f"{out}: {len(old)} of {len(vocabulary)} tokens")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
