"""Intake: from the spool to the job table (see `reading`)."""

from relaypacs.intake.arrival import ArrivalOf, ArrivalReader, CallerPolicy
from relaypacs.intake.reading import Intake

__all__ = ["ArrivalOf", "ArrivalReader", "CallerPolicy", "Intake"]
