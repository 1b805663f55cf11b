"""Writes monitoring/rules and monitoring/tests from the tables beside this file.

    python3 monitoring/generate            write them
    python3 monitoring/generate --check    say which files are not what the tables say

An alert needs a runbook, a board and two unit tests (one that fires, one that must not); without
them nothing is written.
"""

import sys
from pathlib import Path

from alerts import ALERTS
from cases import CASES
from slos import AGGREGATIONS, burns, ratios

HOME = Path(__file__).resolve().parent.parent
HEAD = '# Written by `python3 monitoring/generate` from its tables; change those.\n'
SERVER = 'http://127.0.0.1:7600'
GRAFANA = 'http://127.0.0.1:3000'


def quoted(text):
    """A single-quoted scalar: nothing but the quote itself has a meaning in it."""
    return "'" + str(text).replace("'", "''") + "'"


def mapping(pairs):
    return '{' + ', '.join(f'{name}: {quoted(value)}' for name, value in pairs) + '}'


def annotations(alert, summary):
    return [
        ('summary', summary),
        ('description', summary),
        ('runbook_url', f'{SERVER}/runbooks/{alert.name}'),
        ('dashboard_url', f'{GRAFANA}/d/rollcall-{alert.board}'),
    ]


def rule(alert):
    yield f'  - alert: {alert.name}\n    expr: {quoted(alert.expr)}\n'
    if alert.wait:
        yield f'    for: {alert.wait}\n'
    if alert.keep:
        yield f'    keep_firing_for: {alert.keep}\n'
    yield f'    labels: {mapping([("severity", alert.severity), *alert.labels])}\n    annotations:\n'
    for name, value in annotations(alert, alert.summary):
        yield f'      {name}: {quoted(value)}\n'


def rules():
    yield HEAD + 'groups:\n'
    for group, records in [('rollcall.rules', ratios()), ('rollcall.aggregations', AGGREGATIONS)]:
        yield f'- name: {group}\n  rules:\n'
        for name, expr in records:
            yield f'  - record: {name}\n    expr: {quoted(expr)}\n'
    for group, alerts in [('rollcall-slo.alerts', burns()), ('rollcall.alerts', ALERTS)]:
        yield f'- name: {group}\n  rules:\n'
        for alert in alerts:
            yield from rule(alert)


def test(alert, case):
    yield f'- name: {quoted(alert.name + ": " + case.story)}\n  interval: 30s\n  input_series:\n'
    for series, values in case.series.items():
        yield f'  - {mapping([("series", series), ("values", values)])}\n'
    yield f'  alert_rule_test:\n  - eval_time: {case.at}\n    alertname: {alert.name}\n'
    yield '    exp_alerts:\n' if case.fires else '    exp_alerts: []\n'
    for labels in case.fires:
        yield f'    - exp_labels: {mapping(labels.items())}\n      exp_annotations:\n'
        for name, value in annotations(alert, case.says or alert.summary):
            yield f'        {name}: {quoted(value)}\n'


def tests(board, by_name):
    yield HEAD + 'rule_files: [../rules/rollcall.yaml]\nevaluation_interval: 1m\ntests:\n'
    for name, cases in CASES.items():
        if by_name[name].board == board:
            for case in cases:
                yield from test(by_name[name], case)


def wanted():
    """Every file with its text, after the pairing has been seen to."""
    alerts = burns() + ALERTS
    by_name = {alert.name: alert for alert in alerts}
    runbooks = {path.stem for path in (HOME / 'runbooks').glob('*.md')}
    problems = [f'runbooks/{name}.md is missing' for name in by_name.keys() - runbooks]
    problems += [f'runbooks/{name}.md belongs to no alert' for name in runbooks - by_name.keys()]
    problems += [f'{name} has tests and is no alert' for name in CASES.keys() - by_name.keys()]
    for name in by_name:
        fires = {bool(case.fires) for case in CASES.get(name, [])}
        if fires != {True, False} and name != 'RollcallWatchdog':
            problems.append(f'{name} needs a test that fires and one that must not')
    if problems:
        sys.exit('\n'.join(sorted(problems)))
    files = {HOME / 'rules/rollcall.yaml': ''.join(rules())}
    for board in sorted({alert.board for alert in alerts}):
        files[HOME / f'tests/{board}.yaml'] = ''.join(tests(board, by_name))
    return files


def main():
    files = wanted()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if '--check' not in sys.argv[1:]:
        for path in stale:
            path.write_text(files[path])
            print(f'wrote {path.relative_to(HOME.parent)}')
    elif stale:
        names = ', '.join(str(path.relative_to(HOME.parent)) for path in stale)
        sys.exit(f'not what the tables say: {names}; run `python3 monitoring/generate`')


if __name__ == '__main__':
    main()
