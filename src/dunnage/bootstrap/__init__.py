"""What both halves must agree on: argv, stdin and stdout, socket address, bundle."""

from __future__ import annotations
