"""Words of tables by which healthy people and columns about patients are recognised, in several languages.

A word that is recognised wrongly would let patients pretrain as healthy people, so what is doubtful is not healthy.
"""

from __future__ import annotations

import re

LETTER = r"[^\W\d_]"
# Names of columns that may say who is a patient.
OF_PATIENTS = re.compile(
    r"diag|gr(?:ou?p|upp|up[op])|patient|pacient|\bdx|stat[ue]|estado|condi[ct]i|case|disorder|disease|illness|krank|malad|"
    r"enferm|clinic|klini|patholog|"
    r"(?<![a-z])(?:mdd|scz|adhd|asd|mci|ptsd|ocd|bd|ms|pd|ad)(?![a-z])|depress|schizo|bipolar|autis|epilep|dement|"
    r"alzheim|parkinson",
    re.I,
)
SHORT = re.compile(r"hc|nc|cn|con|ctrl|td", re.I)
HEALTHY = re.compile(
    rf"""(?<!{LETTER})(?:
        healthy | control(?:e?s)? | contr[oô]les? | t[eé]moins? | saine?s? | san[oaie]s?
        | kontroll?(?:e[nrs]?|s)?(?:(?:grupp|prob|person|subje|deltak|deltag){LETTER}*)?
        | gesund(?:e[mnrs]?)?(?:kontroll{LETTER}*)? | friske? | gezonde?
        | (?:cognitively|neurologically|clinically|psychiatrically|kognitiv|cognitivamente)[\W_]+normal(?:es?|s)?
        | neurotypicals? | (?:typical|typically)[\W_]+develop{LETTER}* | normalprob{LETTER}* | normalperson{LETTER}*
        )(?!{LETTER})""",
    re.I | re.X,
)
# alone, or before a bracket or a comma, as in "normal (no diagnosis)"; not in "normal pressure hydrocephalus"
NORMAL = re.compile(rf"(?:normal(?:e[sn]?|s)?|typicals?)(?!{LETTER})\s*(?:[(,;:/].*)?", re.I | re.S)
# directly before a word: "not healthy", "non-healthy", "no longer a control"
NEGATED = re.compile(
    rf"(?<!{LETTER})(?:no|non|not|no[\s_-]longer|never|neither|nor|nicht|nie|kein{LETTER}*|pas|ni)"
    r"[\s_-]+(?:(?:a|an|the|fully|completely|cognitively)[\s_-]+)?$",
    re.I,
)
# directly after a word: "impulse control disorder", "control of epilepsy"
OF_DISEASE = re.compile(rf"[\s_-]+(?:of|over|de|der|loss|(?:problem|deficit|disorder|disease)s?)(?!{LETTER})", re.I)
PATIENT = re.compile(rf"(?<!{LETTER})(?:pa[tc]ient|unhealthy|abnormal|ungesund|krank)", re.I)


def is_healthy(text: str) -> bool:
    """Whether a value of a column, or its meaning in a sidecar, says that a person is healthy.

    Examples
    --------
    >>> [is_healthy(text) for text in ("HC", "healthy control", "Kontrollgruppe", "cognitively normal", "normal")]
    [True, True, True, True, True]
    >>> [is_healthy(text) for text in ("unhealthy", "not healthy", "uncontrolled epilepsy", "abnormal", "atypical")]
    [False, False, False, False, False]
    """
    text = text.strip()
    if SHORT.fullmatch(text):
        return True
    if PATIENT.search(text):
        return False
    if NORMAL.fullmatch(text):
        return True
    return any(
        not NEGATED.search(text[: found.start()]) and not OF_DISEASE.match(text[found.end() :])
        for found in HEALTHY.finditer(text)
    )
