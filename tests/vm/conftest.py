"""What needs a cgroup v2 with every controller, and systemd: the guest's, or yours."""

from __future__ import annotations

import os
from pathlib import Path

_NEEDED = ("/sys/fs/cgroup/cgroup.controllers", "/run/systemd/system")

collect_ignore_glob = [] if all(Path(path).exists() for path in _NEEDED) else ["test_*"]
if "DUNNAGE_BOOT" not in os.environ:
    collect_ignore_glob.append("test_reboot.py")  # it ends the machine
