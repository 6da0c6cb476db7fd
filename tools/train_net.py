"""The published name of run_net.py."""

import sys

from run_net import main

sys.exit(main())
