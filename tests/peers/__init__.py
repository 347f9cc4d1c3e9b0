"""Real peers for the tests and the demo: each starts on free loopback ports and is stopped by its own pid.

Nothing here stands in for a product it isn't: Orthanc, DCMTK and stock pynetdicom are the installed programs.
"""
