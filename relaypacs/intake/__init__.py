"""Intake: from the spool to the job table (see `reading`)."""

from relaypacs.intake.arrival import ArrivalOf, ArrivalReader, CallerPolicy
from relaypacs.intake.reading import GATHER_MOST_SECONDS, Intake

__all__ = ["GATHER_MOST_SECONDS", "ArrivalOf", "ArrivalReader", "CallerPolicy", "Intake"]
