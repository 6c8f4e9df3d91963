"""The papers that the methods text cites, as a list of references and as a BibTeX file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CITATION = re.compile(r"\[@(\w+)\]")


@dataclass(frozen=True)
class Reference:
    """A paper; `authors` are written "Surname Initials", `pages` are pages or an article number."""

    key: str
    authors: tuple[str, ...]
    title: str
    year: int
    journal: str = ""
    volume: str = ""
    pages: str = ""
    doi: str = ""

    @property
    def text(self) -> str:
        """The entry of a list of references."""
        place = f"{self.year}; {self.volume}: {self.pages}" if self.volume else f"{self.year}"
        link = f" doi:{self.doi}" if self.doi else ""
        journal = f"{self.journal} " if self.journal else ""
        return f"{', '.join(self.authors)}. {self.title}. {journal}{place}.{link}"

    @property
    def bibtex(self) -> str:
        """The entry of a BibTeX file."""
        authors = " and ".join(
            f"{name.rpartition(' ')[0]}, {'. '.join(name.rpartition(' ')[2])}." for name in self.authors
        )
        fields = {
            **{"author": authors, "title": f"{{{self.title}}}", "journal": self.journal, "year": str(self.year)},
            **{"volume": self.volume, "pages": self.pages.replace("-", "--"), "doi": self.doi},
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{'article' if self.journal else 'misc'}{{{self.key},", *lines, "}"])


LIBRARY = (
    Reference(
        "leonardsen2025",
        ("Leonardsen EH", "Wolfers T", "Wang Y", "Westlye LT"),
        "On the Utility of Large-Scale Pretrained Convolutional Neural Networks in Clinical Neuroimaging",
        2025,
    ),
    Reference(
        "peng2021",
        ("Peng H", "Gong W", "Beckmann CF", "Vedaldi A", "Smith SM"),
        "Accurate brain age prediction with lightweight deep neural networks",
        2021,
        "Medical Image Analysis",
        "68",
        "101871",
        "10.1016/j.media.2020.101871",
    ),
    Reference(
        "henschel2020",
        ("Henschel L", "Conjeti S", "Estrada S", "Diers K", "Fischl B", "Reuter M"),
        "FastSurfer - A fast and accurate deep learning based neuroimaging pipeline",
        2020,
        "NeuroImage",
        "219",
        "117012",
        "10.1016/j.neuroimage.2020.117012",
    ),
    Reference(
        "fischl2012",
        ("Fischl B",),
        "FreeSurfer",
        2012,
        "NeuroImage",
        "62",
        "774-781",
        "10.1016/j.neuroimage.2012.01.021",
    ),
    Reference(
        "phipson2010",
        ("Phipson B", "Smyth GK"),
        "Permutation P-values should never be zero: calculating exact P-values when permutations are randomly drawn",
        2010,
        "Statistical Applications in Genetics and Molecular Biology",
        "9",
        "39",
        "10.2202/1544-6115.1585",
    ),
    Reference(
        "holm1979",
        ("Holm S",),
        "A simple sequentially rejective multiple test procedure",
        1979,
        "Scandinavian Journal of Statistics",
        "6",
        "65-70",
    ),
    Reference(
        "loshchilov2019",
        ("Loshchilov I", "Hutter F"),
        "Decoupled weight decay regularization",
        2019,
        "International Conference on Learning Representations",
        doi="10.48550/arXiv.1711.05101",
    ),
    Reference(
        "janes2009",
        ("Janes H", "Pepe MS"),
        "Adjusting for covariate effects on classification accuracy using the covariate-adjusted receiver operating "
        "characteristic curve",
        2009,
        "Biometrika",
        "96",
        "371-382",
        "10.1093/biomet/asp002",
    ),
)


def number_citations(texts: Iterable[str]) -> tuple[list[str], list[Reference]]:
    """Texts with each ``[@key]`` replaced by a number in brackets, and the references in the order of the numbers."""
    by_key = {reference.key: reference for reference in LIBRARY}
    cited: list[Reference] = []

    def number(found: re.Match) -> str:
        reference = by_key.get(found[1])
        if reference is None:  # text of the user's configuration
            return found[0]
        if reference not in cited:
            cited.append(reference)
        return f"[{cited.index(reference) + 1}]"

    return [CITATION.sub(number, text) for text in texts], cited


def bibliography(references: Sequence[Reference]) -> str:
    """The content of a BibTeX file."""
    return "\n\n".join(reference.bibtex for reference in references) + "\n"
