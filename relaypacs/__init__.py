"""RelayPACS: a DICOM store-and-forward gateway."""

__version__ = "0.1.0"
