"""The numbers of the alerts, read from their rules, so that a line on a board is where an alert is."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'monitoring/generate'))

from alerts import ALERTS  # noqa: E402
from slos import BURNS, SLOS  # noqa: E402


def limit(alert, nth=0, severity=None):
    """The nth number that an alert compares with."""
    [rule] = [a for a in ALERTS if a.name == 'Rollcall' + alert and severity in (None, a.severity)]
    return float(re.findall(r'[<>]=? (-?[0-9][0-9.e]*)', rule.expr)[nth])


def speeds():
    """How many times faster than allowed a budget may burn, by window."""
    return [float(factor) for _, _, factor, _, _ in BURNS]
