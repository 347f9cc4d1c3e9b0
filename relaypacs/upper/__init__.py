"""The DICOM upper layer (PS3.8), both sides: pynetdicom's association over a socket, driven inline.

`association.associate` asks a peer for an association, `accept.accept` answers one; `errors` says how they end.
"""
