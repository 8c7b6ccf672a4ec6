"""KEY=VALUE from a command line: the name of a file is read as it is, and what cannot be read has a hint that
works when it is pasted into a shell."""

import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mari_cli import launch
from mari_cli.errors import UserError
from mari_cli.launch import Experiment
from mari_cli.launch.typed import as_meant, quote, shell_word, unquoted
from mari_cli.places import check_length

NAMES = [
    "~t.jsonl",
    "it's.jsonl",
    "a b.jsonl",
    "größe.jsonl",
    "文.jsonl",
    "a=b.jsonl",
    "[a].jsonl",
    "{a}.jsonl",
    "a(b).jsonl",
    'say "no".jsonl',
    "back\\slash.jsonl",
    "$x.jsonl",
    "a#b.jsonl",
    "100%.jsonl",
    "a&b;c!.jsonl",
    "1e3",
    "007",
    "true",
    "@x",
    "a:b",
    "*.jsonl",
    "it's \"\\' both\\",
]


def composed(*overrides: str, task: str = "unlearn"):
    return launch.configured(Experiment(task, ["model.path=m", "retain.path=r.jsonl", *overrides]))


def read(override: str):
    """What Hydra makes of it."""
    return OverridesParser.create().parse_override(as_meant(override)).value()


@pytest.mark.parametrize("there", [True, False])
def test_the_name_of_a_file_is_read_as_it_is(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        if there:
            (tmp_path / name).touch()
        elif "\\" in name:  # Hydra's own sign, which may be meant
            continue
        for key in ("forget.path", "out", "model.tokenizer"):
            assert str(read(f"{key}={name}")) == name


def test_it_comes_through_to_the_run():
    one, two, three, four, five = NAMES[:5]
    cfg = composed(
        f"forget.path={one}", f"retain.path={two}", f"holdout.path={three}", f"out={four}", f"gold={five}"
    )
    assert [cfg.forget.path, cfg.retain.path, cfg.holdout.path, cfg.out, cfg.gold] == NAMES[:5]


def test_a_comma_is_part_of_the_name_of_a_file_that_is_there_and_else_separates_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="asks for several runs"):
        composed("forget.path=a,b.jsonl")
    (tmp_path / "a,b.jsonl").touch()
    assert composed("forget.path=a,b.jsonl").forget.path == "a,b.jsonl"
    planned = launch.plan(
        Experiment("unlearn", ["model.path=~m,it's,'x,y'", "retain.path=r", "forget.path=f"])
    )
    assert [job.config.model.path for job in planned.jobs] == ["~m", "it's", "x,y"]


@pytest.mark.parametrize(
    ("typed", "path"), [("'a,b.jsonl'", "a,b.jsonl"), ('"a b"', "a b"), (r"a\,b", "a,b"), ("null", None)]
)
def test_what_was_quoted_for_hydra_is_read_as_before(typed, path):
    assert read(f"forget.path={typed}") == path


def test_the_kind_of_a_file_is_seen_through_its_quotes(tmp_path):
    assert composed("forget.path='my, diary.txt'", "forget.fraction=0.1").forget.fraction == 0.1


def test_a_home_directory_is_put_in_and_no_other_persons(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert composed("out=~/runs/one").out == f"{tmp_path}/runs/one"
    assert composed("out=~root/one").out == "~root/one"


def test_a_name_that_no_file_can_have_is_refused_with_its_key():
    for path in ("x" * 256, "a/" + "é" * 128, "x/" * 3000):
        with pytest.raises(UserError, match="`cache` is too long") as refused:
            check_length("cache", path)
        assert refused.value.hint == "shorten `cache`"
    check_length("cache", f"{'x' * 255}/{'x' * 255}")


@pytest.mark.parametrize("key", ["forget.path", "model.path", "out", "metrics.mia_reference"])
def test_so_it_is_in_a_run(key):
    with pytest.raises(UserError, match=f"`{key}` is too long"):
        composed("forget.path=f", f"{key}={'x' * 256}")


def test_an_argument_of_a_chat_template_needs_no_sign_of_hydras():
    for typed in (
        "model.chat_template_args.enable_thinking=false",
        "model.chat_template_args={enable_thinking: false}",
    ):
        assert composed("forget.path=f", typed).model.chat_template_args == {"enable_thinking": False}


def test_a_word_of_another_key_may_have_letters_beyond_ascii():
    assert read("model.name=Müller") == "Müller"


ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=200)
@given(value=ANY)
@example("it's")
@example("\\")
@example("\\'")
def test_quoting_and_unquoting_meet(value):
    parsed = OverridesParser.create().parse_override(f"k={quote(value)}").value() if value else ""
    assert str(parsed) == value or quote(value) == value
    assert unquoted(quote(value)) == value


@settings(max_examples=200)
@given(value=ANY.filter(lambda text: text.isprintable()))
@example('say "no"')
@example("it's")
def test_a_hint_can_be_pasted_into_a_shell_and_is_then_what_was_meant(value):
    (word,) = shlex.split(shell_word("model.name", value))
    assert OverridesParser.create().parse_override(word).value() == value
    assert OverridesParser.create().parse_override(as_meant(word)).value() == value


@pytest.mark.parametrize("value", ["Q: {prompt}\nA: ", "tab\tand 'quote' and \\ back", "\x01\u2028é"])
def test_so_can_one_with_line_breaks(value):
    word = shell_word("model.prompt_template", value)
    assert word.isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert OverridesParser.create().parse_override(said.stdout.decode()).value() == value


@pytest.mark.parametrize("value", ["it's", "[", "a=b'", 'say "no"', "Q: {prompt}\n'A': ["])
def test_a_value_that_cannot_be_read_is_told_of_with_such_a_hint(value):
    with pytest.raises(UserError, match="cannot read the value of") as refused:
        composed("forget.path=f", f"model.prompt_template={value}")
    assert "\n" not in f"{refused.value}{refused.value.hint}"
    word = refused.value.hint.partition("quotes: ")[2]
    said = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    parsed = OverridesParser.create().parse_override(said.stdout.decode())
    assert (parsed.key_or_group, parsed.value()) == ("model.prompt_template", value)


def test_a_line_break_that_is_written_as_backslash_n_is_refused_with_one_that_works():
    with pytest.raises(UserError, match="has a backslash and a letter") as refused:
        composed("forget.path=f", r'model.prompt_template="Q: {prompt}\nA: "')
    word = refused.value.hint.removeprefix("in a shell, write ").partition("; in YAML")[0]
    said = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert composed("forget.path=f", said.stdout.decode()).model.prompt_template == "Q: {prompt}\n"


def test_a_range_for_one_run_is_refused_with_what_searches_it():
    for word, told in (
        ("train.lr=interval(1e-4,1e-3)", "is searched, and one run takes one value"),
        ("sweep.trials=3", "unknown config key `sweep.trials`"),
        ("npo:loss.beta=choice(1,2)", "is of one method among several"),
    ):
        with pytest.raises(UserError, match=told) as refused:
            composed(word)
        assert "mari sweep" in refused.value.hint


@pytest.mark.parametrize("written", ["[b.jsonl, 'a,b.jsonl']", '["a,b.jsonl",[b.jsonl]]'])
def test_a_file_with_a_comma_in_its_name_is_a_request(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    assert composed(f"forget.requests={written}").forget.kind == "files"


@pytest.mark.parametrize("group", ["model", "forget", "retain", "holdout"])
@pytest.mark.parametrize("option", ["runs/old", "/some/where", "here.jsonl"])
def test_a_path_in_place_of_an_option_is_told_as_one(tmp_path, monkeypatch, group, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").touch()
    with pytest.raises(UserError, match=f"^no {group} named `{option}`$") as refused:
        launch.compose(launch.Experiment("unlearn", [f"{group}={option}"]))
    assert refused.value.hint == f"a file or a folder is given as `{group}.path=…`"


def test_an_option_with_a_slash_is_of_its_group():
    with pytest.raises(UserError, match=r"^no loss named `npo/big`$") as refused:
        launch.compose(launch.Experiment("unlearn", ["loss=npo/big"]))
    assert "loss is one of `altpo`" in str(refused.value.hint)
