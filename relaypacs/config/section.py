"""What every table of the configuration is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def inconsistencies(self) -> Iterator[str]:
        """What the options of this table say against each other, one sentence each."""
        yield from ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        found = list(self.inconsistencies())
        if found:
            raise ValueError("; ".join(found))
        return self
