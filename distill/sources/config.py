"""Settings of the sources (`data.options`). Free of torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class SourceConfig:
    """What every source's settings can say about its files."""

    def files(self, root: str | None) -> list[Path]:
        """Files that determine the content; the data set's fingerprint covers them.

        Args:
            root: `data.root`.
        """
        return []
