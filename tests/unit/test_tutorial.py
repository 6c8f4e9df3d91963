"""docs/tutorial.md shows what this version prints: its data sets are made up again from what the page says of them.

The tables have the page's columns, counts and ranges with other people behind them, and images of one byte.  What reads
tables only must then print the page's blocks, letter by letter.
"""

import re
import shutil
from itertools import cycle, islice
from pathlib import Path

import neurotransfer
import pytest
from neurotransfer.cli import main
from runs import REPOSITORY

from workbench.tutorial_page import PAGE, blocks, commands, tidy, with_outputs

TEXT = PAGE.read_text()
SHOWN = {block.command: block.text for block in blocks(TEXT)}
CLONE = "/PROJECT/neurotransfer"
ROW = re.compile(r"(?P<name>\S+) +(?P<missing>\d+) %  (?P<values>.+?)(?: {2,}\S+)?")
HOW = "make tutorial DATA=FOLDER makes the page again; without the data, change its block as the difference shows"


def values_of(shown, first, number):
    """`number` values that `look` describes as `shown`; the first is `first` if it is known."""
    if ends := re.fullmatch(r"(-?\d+) to (-?\d+)", shown):
        low, high = int(ends[1]), int(ends[2])
        inner = [value for value in range(low + 1, high) if str(value) != first]
        return [first or str(low), *map(str, islice(cycle([low, high, *inner]), number - 1))]
    counted = [entry.rpartition(" ") for entry in shown.split(", ")]
    cells = [word for word, _, count in counted for _ in range(int(count))]
    return sorted(cells, key=lambda word: word != first)


def make_up(folder, look):
    """A data set that has the properties of the one of which `look` has told."""
    images, people = map(int, re.search(r": (\d+) T1-weighted images of (\d+) people", look).groups())
    assert images == people
    lines = iter(look.split("participants.tsv, ")[1].splitlines()[2:])
    columns = {}
    distinct = re.search(r"age: age \((\d+) values, such as (\d+)\)", look)
    while found := ROW.fullmatch(next(lines).rstrip()):
        known = people - round(people * int(found["missing"]) / 100)
        of_age = found["name"] == "age"
        coded = re.search(rf": {found['name']}, codes ([^=<>\s]+)=", look)  # in the order of their first appearance
        first = distinct[2] if of_age else coded[1] if coded else ""
        cells = values_of(found["values"], first, known)
        if of_age:  # as many different ones as the page says
            chosen = list(dict.fromkeys(cells))[: int(distinct[1])]
            cells = list(islice(cycle(chosen), known))
        columns[found["name"]] = cells + ["n/a"] * (people - known)
    names = [f"sub-{number:02d}" for number in range(1, people + 1)]
    rows = [["participant_id", *columns], *zip(names, *columns.values(), strict=True)]
    for name in names:
        (folder / name / "anat").mkdir(parents=True)
        (folder / name / "anat" / f"{name}_T1w.nii.gz").write_bytes(b"x")
    (folder / "participants.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))


def without_costs(plan):
    """The jobs by rule, the pools and the power."""
    jobs = re.findall(r"^  (\w+) +(\d+)\b", plan.partition("Longest path")[0], re.MULTILINE)
    assert ("report", "1") in jobs
    return jobs, plan.partition("\nPools by task")[2]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The reader's folder."""
    for name in ("ds002748", "ds000011"):
        make_up(tmp_path / "data" / name, SHOWN[f"neurotransfer look data/{name}"])
    levels = '{"group": {"Levels": {"depr": "patients with depression", "control": "healthy volunteers"}}}'
    (tmp_path / "data/ds002748/participants.json").write_text(levels)
    (tmp_path / "config").mkdir()
    shutil.copy2(REPOSITORY / "config/laptop.yaml", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_blocks_of_commands_that_read_tables_are_what_this_version_prints(clone, capsys):
    for command, shown in SHOWN.items():
        words = command.split()
        if words[0] == "cat":
            printed = Path(words[1]).read_text()
        elif words[1] in ("look", "init", "manifest", "plan"):
            assert main(words[1:]) == 0
            printed = capsys.readouterr().out
        else:
            continue
        printed = tidy(printed.replace(str(clone), CLONE))
        if words[1] == "plan":  # the page has costs of its rehearsal, and this machine another disk
            printed, shown = without_costs(printed), without_costs(shown)
        assert printed == shown, f"{command}: {HOW}"


def test_every_block_stands_below_its_command_and_was_made_by_this_version():
    assert len(SHOWN) == len(blocks(TEXT)) > 10
    assert set(SHOWN) <= set(commands(TEXT))
    assert f"neurotransfer {neurotransfer.__version__} on" in TEXT
    for command, text in SHOWN.items():
        before = TEXT[: TEXT.index(f": {command} -->")]
        assert commands(before)[-1] == command
        assert text.strip() and "/tmp/" not in text


def test_a_block_is_cut_where_its_comment_says():
    page = '<!-- output up to "b": one -->\n```text\nold\n```\n<!-- output from "b": two -->\n```text\n```\n'
    made = with_outputs(page, lambda command: f"{command}\na\nb \nc\n")
    assert [block.text for block in blocks(made)] == ["one\na\nb\n[...]\n", "[...]\nb\nc\n"]
    with pytest.raises(ValueError, match="no line of the output contains 'b'"):
        with_outputs(page, lambda _: "a\n")
