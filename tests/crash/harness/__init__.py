"""A node, senders and destinations that record everything; kills at named points and random instants; the verdict.

`scripts/crash` runs it (`command`), `tests/crash/test_points.py` a smaller round. Later work brings its own kills:
`Rig` is the node with its peers, `Traffic` what is sent through it, `verdict.check` what must be true afterwards.
"""
