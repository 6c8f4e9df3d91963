"""Which words say that a person is healthy; a doubtful one never does."""

import pytest
from neurotransfer.manifest.vocabulary import OF_PATIENTS, is_healthy

HEALTHY = """HC|hc|CN|TD|con|healthy|Healthy Control|healthy_controls|control1|Controls (n=30)|HC: healthy control
healthy volunteer, no history of disease|No psychiatric history, healthy|normal|Normal (no diagnosis)|normals
cognitively normal|CN - cognitively normal|normal control|typically developing|typical|neurotypical
Kontrolle|Kontrollgruppe|gesund|gesunde Kontrolle|Gesundkontrolle|Kontrollproband|contrôle|contrôles sains|témoin
sujet sain|controles|sano|control sano|kontroll|frisk|friske kontroller|gezonde controle|sani"""
NOT_HEALTHY = """unhealthy|abnormal|anormal|atypical|uncontrolled|Uncontrolled epilepsy|controlled hypertension
not healthy|non-healthy|no longer healthy|never a control|not a healthy|patient|patient (not control)|patient vs control
normal pressure hydrocephalus|impulse control disorder|MCI with normal MRI|typical depression|ungesund
nicht gesund|keine Kontrolle|kontrollierte Epilepsie|epilepsie contrôlée|pas sain|no sano|gesundheitlich krank
hchc|concussion|AD|MDD|"""


@pytest.mark.parametrize("text", HEALTHY.replace("\n", "|").split("|"))
def test_words_of_healthy_people(text):
    assert is_healthy(text)


@pytest.mark.parametrize("text", NOT_HEALTHY.replace("\n", "|").split("|"))
def test_words_that_only_look_like_them(text):
    assert not is_healthy(text)


@pytest.mark.parametrize("name", ["group", "grupo", "Gruppe", "groupe", "diagnosis", "diagnóstico", "statut", "dx_1"])
def test_names_of_columns_that_may_say_who_is_a_patient(name):
    assert OF_PATIENTS.search(name)
