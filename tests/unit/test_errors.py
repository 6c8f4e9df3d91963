"""A mistake is one line, and its end names the page that explains it."""

import pickle

import pytest
from neurotransfer.errors import ANY_PAGE, PAGES, InputError, InputErrors
from neurotransfer.manifest.bids_tables import read_sidecar
from neurotransfer.split.confounding import check_confounding
from neurotransfer.split.resampling import check_disjoint
from neurotransfer.study.configuration import load_config
from neurotransfer.study.plan import read_study
from runs import REPOSITORY


def test_every_page_exists():
    for page in {*PAGES.values(), ANY_PAGE}:
        path, _, heading = page.partition("#")
        text = (REPOSITORY / path).read_text()
        assert not heading or f"\n## {heading.replace('-', ' ')}\n" in text.lower()


def test_the_page_is_that_of_the_room_which_finds_the_mistake(tmp_path):
    with pytest.raises(InputError) as found:
        read_study({"cohorts": str(tmp_path / "cohorts.tsv")})
    assert found.value.explained() == f"{found.value} (config/README.md)"
    assert "\n" not in found.value.explained()


def test_a_file_that_cannot_be_read_leads_to_the_page_of_the_room_that_reads_it(tmp_path):
    (tmp_path / "participants.json").write_text("{bad")
    with pytest.raises(InputError) as found:
        read_sidecar(tmp_path / "participants.json")
    assert found.value.page == "docs/bids.md"
    with pytest.raises(InputError, match="it is a folder") as found:
        load_config(REPOSITORY, [tmp_path])
    assert found.value.page == "config/README.md"


def test_several_mistakes_name_their_page_once():
    errors = InputErrors([InputError("a.tsv", "row 1", "no", "fix it"), InputError("a.tsv", "row 2", "no", "fix it")])
    assert errors.explained() == f"a.tsv: row 1: no; fix it\na.tsv: row 2: no; fix it ({ANY_PAGE})"


def test_a_mistake_in_a_split_leads_to_the_page_on_people_and_a_label_that_is_the_site_to_its_own():
    import pandas as pd

    crossing = pd.DataFrame({"participant_id": ["A_01", "A_01"], "role": ["train", "test"]})
    with pytest.raises(InputError) as found:
        check_disjoint(crossing, "resample.tsv")
    assert found.value.page == "docs/participants.md"
    site = {"cohort": {"auc": 0.95, "sites": []}}
    refused = check_confounding("ad_hc", site, {"refused_from": 0.9, "waived": []})
    assert [error.page for error in refused] == ["docs/confounding.md"]


def test_mistakes_come_through_a_process_pool_as_they_are():
    one = InputError("a.tsv", "row 1", "no", "fix it")
    for error in (one, InputErrors([one, InputError("b.tsv", "", "no", "fix it")])):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (str(copy), copy.explained(), copy.fix) == (str(error), error.explained(), error.fix)
