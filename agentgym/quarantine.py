"""Verifiers that disagree with themselves are found during a run, and their verdicts no longer used."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping

from agentgym.core import EpisodeView, Verifier
from agentgym.errors import VerifierFault
from agentgym.grading import grade


class Quarantine:
    """Asks the outcome verifiers of one episode in ``every`` again; a verifier that differs ``patience`` times is out.

    ``out`` names those, ``disagreed`` counts all. Which episodes are asked again follows from their ids alone.
    """

    def __init__(self, every: int = 16, patience: int = 3) -> None:
        self.every, self.patience = every, patience
        self.asked, self.disagreed = Counter[str](), Counter[str]()

    @property
    def out(self) -> list[str]:
        """The verifiers in quarantine."""
        return sorted(n for n, count in self.disagreed.items() if count >= self.patience)

    def inspect(self, verifiers: Mapping[str, Verifier], view: EpisodeView) -> VerifierFault | None:
        """Look at a graded episode; a fault if one of its verdicts differs now, or is of a verifier in quarantine."""
        episode = view.episode
        if bad := [n for n in self.out if n in episode.verdicts]:
            return VerifierFault(f"verifier {bad[0]} is in quarantine: it contradicted itself {self.disagreed[bad[0]]} times")
        if zlib.crc32(episode.id.encode()) % self.every:
            return None
        again = grade(verifiers, view)
        self.asked.update(again.keys())
        differ = [n for n, v in again.items() if (v.status, v.value) != (episode.verdicts[n].status, episode.verdicts[n].value)]
        self.disagreed.update(differ)
        return VerifierFault(f"verifier {differ[0]} contradicted itself about one record") if differ else None

    def notes(self) -> list[str]:
        """What a run says about it at its end."""
        return [
            f"verifier {name} contradicted itself {n} times in {self.asked[name]} repeats" + (": quarantined" if name in self.out else "")
            for name, n in sorted(self.disagreed.items())
        ]
