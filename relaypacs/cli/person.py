"""Who runs a command, as the audit trail tells it: whoever logged in, also behind `sudo` and `su`.

The kernel keeps that (audit's login uid, set once per login by PAM); the environment is not asked, for anybody may
write there. Without a login (cron, a container) it is the user the command runs as.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

_LOGIN_UID = Path("/proc/self/loginuid")
_UNSET = 0xFFFFFFFF
"""proc(5): nobody has logged in."""


def who() -> str:
    """The login name; `uid 1000` of a user without one."""
    uid = _login_uid()
    if uid is None:
        uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _login_uid() -> int | None:
    try:
        uid = int(_LOGIN_UID.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if uid == _UNSET else uid
