"""YAML and JSON of any content give a value or one line, and are measured before they are built."""

import json
import os

import pytest
from neurotransfer.errors import InputError
from neurotransfer.study import documents
from neurotransfer.study.documents import read_document


def aliases(first: str, opening: str, join: str, closing: str) -> str:
    """Twelve groups or lists, each of nine times the one before: 9**11 values in about 600 characters."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{at}: &a{at} {opening}{join.join([f'*a{at - 1}'] * 9)}{closing}" for at in range(1, 12)]
    return "\n".join(lines)


HOSTILE = {
    "groups of groups": (aliases("{k: 1}", "{<<: [", ", ", "]}"), "more than 20,000 values"),
    "lists of lists": (aliases("[x, x]", "[", ", ", "]"), "more than 20,000 values"),
    "an alias within its own list": ("a: &a [1, *a]\n", "line 1: the alias *a leads back to itself"),
    "an alias within its own group": ("a: &a {b: {c: *a}}\n", "the alias *a leads back to itself"),
    "flow, deep": ("a: " + "[" * 100_000, "more than 40 levels"),
    "levels that an alias adds": ("a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 20 + "*a" + "]" * 20, "40 levels"),
    "blocks, deep": ("\n".join(" " * at + "a:" for at in range(900)), "line 41: it has more than 40 levels"),
    "JSON, deep": ('{"a": ' * 100_000 + "1" + "}" * 100_000, "more than 40 levels"),
    "JSON, 900 deep": ('{"a": ' * 900 + "1" + "}" * 900, "more than 40 levels"),
    "many keys": ("\n".join(f"k{at}: 1" for at in range(6_000)), "more than 5,000 entries"),
    "a long value": ("seed: 1" + ":59" * 10_000, "more than 10,000 characters"),
    "a large file": ("a: '" + "x" * 1_100_000 + "'", "larger than 1 MB"),
    "5,000 digits": ("seed: " + "9" * 5_000, "a value cannot be read"),
    "a number of many digits": ("seed: 1" + ":59" * 3_000, "a whole number of thousands of digits"),
    "a key of many digits": ("0x" + "f" * 1_000 + ": {0x" + "f" * 9_000 + ": 1}", "it is not YAML"),
    "a list with such a number": ("a: [{b: 0x" + "f" * 9_000 + "}]", "a whole number of thousands of digits"),
    "an impossible date": ("study: 2026-13-45\n", "month must be in 1..12"),
    "an empty number": ("seed: !!int ''\n", "it does not fit its tag"),
    "no time": ("seed: !!timestamp x\n", "it does not fit its tag"),
    "a program": ("seed: !!python/object/apply:os.system [id]\n", "it is not YAML"),
    "half a character": ('{"study": "\\ud800"}', "half a character"),
    "a key twice in JSON": ('{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
    "a key twice in a line": ("a: {b: {c: 1, c: 2}}", "the key 'c' stands here twice"),
    "a key twice under two names": ("yes: 1\ntrue: 2\n", "the key 'true' stands here and in line 1"),
    "zeros": ("\0" * 100, "it is not YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_document_that_is_too_large_or_no_value_is_one_line(tmp_path, name):
    text, said = HOSTILE[name]
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_document(path)
    assert said in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for path in (tmp_path / "fifo", tmp_path / "endless", tmp_path):
        with pytest.raises(InputError, match=r"it is (no regular file|a folder)"):
            read_document(path)


def test_a_document_within_the_bounds_is_read_as_yaml_reads_it(tmp_path):
    path = tmp_path / "my.yaml"
    levels = "a: " + "[" * (documents.MOST_LEVELS - 2) + "]" * (documents.MOST_LEVELS - 2)
    path.write_text(f"{levels}\nb: &b {{x: 1}}\nc: [*b, *b]\nd: {{<<: *b, y: 2}}\n")
    found = read_document(path)
    assert found["c"] == [{"x": 1}, {"x": 1}] and found["d"] == {"x": 1, "y": 2}
    wide = {"a": list(range(documents.MOST_ENTRIES)), "b": {"c": None}}
    path.write_text(json.dumps(wide))
    assert read_document(path) == wide
