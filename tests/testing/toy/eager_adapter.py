"""Faulty: imports its framework when it is loaded."""

import toyframework  # noqa: F401
from toy_adapter import *  # noqa: F403
