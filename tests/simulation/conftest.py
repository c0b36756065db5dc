"""The workload is a module beside the tests; tools/sim runs it as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
