"""Stock pynetdicom as `scripts/bench receive` measures it: an AE as its documentation shows it, in chunked mode.

    python scripts/lib/bench_stock_ae.py PORT FOLDER

Chunked mode (`STORE_RECV_CHUNKED_DATASET`) writes a dataset to a file as it comes; it is pynetdicom's fastest. The
handler only moves that file to where it belongs. Its contexts are every storage class with pynetdicom's four default
transfer syntaxes: every further one makes each of its associations slower.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt


def main() -> None:
    """Serve until SIGTERM."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    tempfile.tempdir = str(folder)
    _config.STORE_RECV_CHUNKED_DATASET = True
    entity = AE(ae_title="RELAYPACS")
    entity.maximum_associations = 50
    entity.supported_contexts = AllStoragePresentationContexts

    def store(event: evt.Event) -> int:
        os.rename(event.dataset_path, folder / f"{event.request.AffectedSOPInstanceUID}.dcm")
        return 0x0000

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main()
