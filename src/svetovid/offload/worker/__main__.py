"""``python -m svetovid.offload.worker``."""

from __future__ import annotations

import sys

from svetovid.offload.worker.local import main

sys.exit(main())
